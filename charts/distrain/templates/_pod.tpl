{{/*
The pod template: metadata and spec. Takes a dictionary: root, hash (of the run), container (its name).
*/}}
{{- define "distrain.pod" -}}
{{- $ := .root }}
{{- $values := $.Values }}
{{- $topology := include "distrain.topology" $ | fromJson }}
metadata:
  labels:
    {{- include "distrain.selectorLabels" $ | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- $annotations := $values.podAnnotations }}
  {{- if $values.rdma.enabled }}{{ $annotations = merge (dict) $values.rdma.annotations $annotations }}{{ end }}
  {{- with $annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $values.gracePeriodSeconds }}
  {{- range $field := list "serviceAccountName" "priorityClassName" "runtimeClassName" "schedulerName" }}
  {{- with get $values $field }}
  {{ $field }}: {{ . | quote }}
  {{- end }}
  {{- end }}
  {{- if $values.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  securityContext: {{- include "distrain.podSecurityContext" $values.podSecurity | nindent 4 }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "distrain.affinity" $ | fromYaml }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  tolerations:
    {{- range list "not-ready" "unreachable" }}
    - {key: node.kubernetes.io/{{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: {{ int $values.tolerationSeconds }}}
    {{- end }}
    {{- with $values.tolerations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if gt (int $topology.nodes) 1 }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "distrain.selectorLabels" $ | nindent 10 }}
  {{- end }}
  {{- with $values.initContainers }}
  initContainers:
    {{- $context := include "distrain.securityContext" $ | fromYaml }}
    {{- range . }}
    {{- $container := deepCopy . }}
    {{- if not (hasKey . "securityContext") }}{{ $_ := set $container "securityContext" $context }}{{ end }}
    {{- with $container.resources }}{{ include "distrain.setQuantities" . }}{{ end }}
    - {{- toYaml $container | nindent 6 }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .container }}
      image: {{ include "distrain.image" $ | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: [train]
      env:
        {{- include "distrain.env" (dict "root" $ "topology" $topology "hash" .hash) | nindent 8 }}
      {{- with $values.extraEnvFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if $values.metrics.enabled }}
      ports:
        - {name: metrics, containerPort: 9400}
      {{- end }}
      resources: {{- include "distrain.resources" (dict "root" $ "topology" $topology) | nindent 8 }}
      securityContext: {{- include "distrain.securityContext" $ | nindent 8 }}
      terminationMessagePolicy: FallbackToLogsOnError
      volumeMounts: {{- include "distrain.mounts" $ | nindent 8 }}
  volumes: {{- include "distrain.volumes" $ | nindent 4 }}
{{- end }}

{{- define "distrain.podSecurityContext" -}}
runAsNonRoot: {{ not (eq (toJson .runAsUser) "0") }}
{{- range $field := list "runAsUser" "runAsGroup" "fsGroup" }}
{{- $id := index $ $field }}
{{- if not (kindIs "invalid" $id) }}
{{ $field }}: {{ int64 $id }}
{{- end }}
{{- end }}
{{- with .supplementalGroups }}
supplementalGroups: {{ toJson . }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "distrain.restrictedSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "distrain.securityContext" -}}
{{ include "distrain.restrictedSecurityContext" . }}
  {{- if .Values.rdma.enabled }}
  add: [IPC_LOCK]
  {{- end }}
{{- end }}

{{/* The given affinity with avoidNodes in each of its terms, since terms are alternatives. */}}
{{- define "distrain.affinity" -}}
{{- $affinity := deepCopy .Values.affinity }}
{{- if .Values.avoidNodes }}
  {{- $avoid := list }}
  {{- range .Values.avoidNodes }}
    {{- $avoid = append $avoid (dict "key" "metadata.name" "operator" "NotIn" "values" (list .)) }}
  {{- end }}
  {{- $given := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" (list (dict)) $affinity }}
  {{- $terms := list }}
  {{- range $given }}
    {{- $fields := .matchFields | default list }}
    {{- $terms = append $terms (merge (dict "matchFields" (concat $fields $avoid)) .) }}
  {{- end }}
  {{- $required := dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
  {{- $affinity = mergeOverwrite $affinity (dict "nodeAffinity" $required) }}
{{- end }}
{{- toYaml $affinity }}
{{- end }}

{{/* What is neither requested nor limited has the default that values.yaml describes. */}}
{{- define "distrain.resources" -}}
{{- $resources := deepCopy .root.Values.resources }}
{{- include "distrain.setQuantities" $resources }}
{{- $gpus := int .topology.gpusPerNode }}
{{- $defaults := dict "cpu" "500m" "memory" "1Gi" }}
{{- if $gpus }}{{ $defaults = dict "cpu" (mul 3 $gpus) "memory" (printf "%dGi" (mul 12 $gpus)) }}{{ end }}
{{- range $name, $quantity := $defaults }}
  {{- if not (or (hasKey $resources.requests $name) (hasKey $resources.limits $name)) }}
    {{- $_ := set $resources.requests $name $quantity }}
  {{- end }}
{{- end }}
{{- $devices := dict }}
{{- if $gpus }}{{ $_ := set $devices .root.Values.gpuResource $gpus }}{{ end }}
{{- with .root.Values.rdma }}
{{- if .enabled }}{{ $_ := set $devices .resource (int .count) }}{{ end }}
{{- end }}
{{- mergeOverwrite $resources (dict "limits" $devices) | toYaml }}
{{- end }}
