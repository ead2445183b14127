{{/* A pod that only mounts the claim with the results, as one line of JSON for NOTES. */}}
{{- define "distrain.resultsPod" -}}
{{- $mount := dict "name" "out" "mountPath" "/out" "readOnly" true }}
{{- $container := dict "name" "reader" "image" (include "distrain.image" .) "imagePullPolicy" .Values.image.pullPolicy "command" (list "sleep" "1d") "volumeMounts" (list $mount) }}
{{- $_ := set $container "securityContext" (include "distrain.restrictedSecurityContext" . | fromYaml) }}
{{- $claim := dict "claimName" (include "distrain.claimName" .) }}
{{- $spec := dict "containers" (list $container) "volumes" (list (dict "name" "out" "persistentVolumeClaim" $claim)) }}
{{- $_ := set $spec "securityContext" (include "distrain.podSecurityContext" .Values.podSecurity | fromYaml) }}
{{- $_ := set $spec "automountServiceAccountToken" false }}
{{- $_ := set $spec "terminationGracePeriodSeconds" 1 }}
{{- with .Values.tolerations }}{{ $_ := set $spec "tolerations" . }}{{ end }}
{{- range .Values.imagePullSecrets }}
  {{- $_ := set $spec "imagePullSecrets" (append ($spec.imagePullSecrets | default list) (dict "name" .)) }}
{{- end }}
{{- $metadata := dict "name" (printf "%s-results" .Release.Name) }}
{{- dict "apiVersion" "v1" "kind" "Pod" "metadata" $metadata "spec" $spec | toJson }}
{{- end }}
