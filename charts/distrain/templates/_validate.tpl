{{/*
Refuses what the schema cannot: values that conflict with each other. Each sentence says what to change.
*/}}
{{- define "distrain.validate" -}}
{{- include "distrain.validateFormerNames" .Values }}
{{- $topology := include "distrain.topology" . | fromJson }}
{{- include "distrain.validateName" (dict "root" . "topology" $topology) }}
{{- include "distrain.validateImage" .Values.image }}
{{- include "distrain.validateTrainer" (dict "trainer" .Values.trainer "topology" $topology "values" .Values) }}
{{- include "distrain.validateClaims" (dict "root" . "nodes" (int $topology.nodes)) }}
{{- include "distrain.validateMounts" .Values }}
{{- include "distrain.validateEnv" .Values }}
{{- include "distrain.validateDevices" (dict "values" .Values "gpus" (int $topology.gpusPerNode)) }}
{{- include "distrain.validateResources" (dict "where" "resources" "resources" .Values.resources) }}
{{- range $index, $container := .Values.initContainers }}
  {{- include "distrain.validateResources" (dict "where" (printf "initContainers[%d].resources" $index) "resources" $container.resources) }}
{{- end }}
{{- include "distrain.validatePods" .Values }}
{{- include "distrain.validateScheduling" .Values }}
{{- include "distrain.validateUpgrade" . }}
{{- end }}

{{/* Values by names that an earlier version of the chart had: what `helm upgrade --reuse-values` brings along. */}}
{{- define "distrain.validateFormerNames" -}}
{{- $now := dict "existingClaim" "existingClaim" "size" "size" "storageClassName" "storageClass" "accessMode" "accessMode" "keepClaim" "keepClaim" }}
{{- range $name, $value := .checkpoint }}
  {{- if not (kindIs "invalid" $value) }}
    {{- if hasKey $now $name }}
      {{- fail (printf "checkpoint.%s is now called persistence.%s; rename it" $name (get $now $name)) }}
    {{- end }}
    {{- fail (printf "checkpoint.%s is not a value of the chart; set trainer.checkpoint for checkpoints, or persistence for the claim" $name) }}
  {{- end }}
{{- end }}
{{- if not (kindIs "invalid" .proxy.none) }}
  {{- fail "proxy.none is now called proxy.noProxy; rename it" }}
{{- end }}
{{- end }}

{{/* Takes a dictionary: root, topology. */}}
{{- define "distrain.validateName" -}}
{{- $name := .root.Release.Name }}
{{- $most := 50 }}
{{- if eq .root.Values.backend "trainjob" }}
  {{- $most = sub 49 (len (toString (sub .topology.nodes 1))) }}
{{- end }}
{{- if gt (len $name) (int $most) }}
  {{- fail (printf "the release name %s has %d characters, but pods are named after it and have room for %d; choose a shorter name" $name (len $name) $most) }}
{{- end }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
  {{- fail (printf "the release name %s is not a valid name for a job; start with a letter and use lower-case letters, digits and hyphens" $name) }}
{{- end }}
{{- end }}

{{- define "distrain.validateImage" -}}
{{- if regexMatch "(@|:[^/]*$)" .repository }}
  {{- fail (printf "image.repository is %s, which ends in a tag or a digest; set image.tag or image.digest to it instead" .repository) }}
{{- end }}
{{- if ne .repository (lower .repository) }}
  {{- fail (printf "image.repository is %s, but the names of images are lower-case; set it to %s if that is its name" .repository (lower .repository)) }}
{{- end }}
{{- if not (regexMatch "^([a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)?$" .repository) }}
  {{- fail (printf "image.repository is %s, which is not the name of an image; write it as registry/path/name, with neither a scheme nor a tag" .repository) }}
{{- end }}
{{- if and .tag .digest }}
  {{- fail "image.tag and image.digest are both set; keep one of them" }}
{{- end }}
{{- end }}

{{/* Takes a dictionary: trainer, topology, values. */}}
{{- define "distrain.validateTrainer" -}}
{{- $model := .trainer.model }}
{{- $data := .trainer.data | default dict }}
{{- if and (or $model $data) (not (or $data.name $data.files)) }}
  {{- fail "trainer.model or trainer.data is set, but not what to train on; set trainer.data.name to a dataset on the Hub (or to sample), or trainer.data.files" }}
{{- end }}
{{- $world := mul .topology.nodes .topology.processesPerNode }}
{{- if and (eq (toString (.trainer.strategy | default dict).kind) "single") (gt (int $world) 1) }}
  {{- fail (printf "trainer.strategy.kind is single, but the run has %d processes; choose another strategy, or ask for one process" $world) }}
{{- end }}
{{- $fewest := (.trainer.elastic | default dict).min_nodes | default 1 }}
{{- if gt (int $fewest) (int .topology.nodes) }}
  {{- fail (printf "trainer.elastic.min_nodes is %d, but the run has %d nodes; lower it, or remove it to wait for all" (int $fewest) (int .topology.nodes)) }}
{{- end }}
{{- if and (eq (toString .trainer.precision) "fp16") (not .topology.gpusPerNode) }}
  {{- fail "trainer.precision is fp16, but the run has no GPUs; set gpus, or choose bf16 or fp32" }}
{{- end }}
{{- if and (.trainer.hub | default dict).repo (not (or .values.secrets.HF_TOKEN .values.extraEnv.HF_TOKEN_PATH .values.extraEnvFrom)) }}
  {{- fail "trainer.hub.repo is set, but there is no token to push with; put one that may write into a Secret and set secrets.HF_TOKEN.name and .key" }}
{{- end }}
{{- end }}

{{- define "distrain.validateMounts" -}}
{{- $paths := dict "/out" "the claim for results" "/cache" "the cache" "/tmp" "a volume of the chart" "/dev/shm" "a volume of the chart" "/etc/ca" "a volume of the chart" }}
{{- $names := list "out" "cache" "tmp" "shm" "ca" }}
{{- range $index, $claim := .dataClaims }}
  {{- include "distrain.validateMount" (dict "what" (printf "dataClaims[%d]" $index) "path" $claim.mountPath "paths" $paths) }}
{{- end }}
{{- range $index, $volume := .extraVolumes }}
  {{- include "distrain.validateMount" (dict "what" (printf "extraVolumes[%d]" $index) "path" $volume.mountPath "paths" $paths) }}
  {{- if or (has $volume.name $names) (regexMatch "^data-[0-9]+$" $volume.name) }}
    {{- fail (printf "extraVolumes[%d].name is %s, which is already the name of a volume; choose another" $index $volume.name) }}
  {{- end }}
  {{- $names = append $names $volume.name }}
{{- end }}
{{- end }}

{{/* Adds a path to those that are taken. Takes a dictionary: what (has it), path, paths (path to what has it). */}}
{{- define "distrain.validateMount" -}}
{{- $path := clean .path }}
{{- range $taken, $owner := .paths }}
  {{- if or (hasPrefix (printf "%s/" $taken) (printf "%s/" $path)) (hasPrefix (printf "%s/" (trimSuffix "/" $path)) (printf "%s/" $taken)) }}
    {{- fail (printf "%s.mountPath is %s, but %s is mounted at %s; choose another folder" $.what $path $owner $taken) }}
  {{- end }}
{{- end }}
{{- $_ := set .paths $path .what }}
{{- end }}

{{- define "distrain.validateEnv" -}}
{{- $values := . }}
{{- $owners := dict "HTTP_PROXY" "proxy.http" "HTTPS_PROXY" "proxy.https" "NO_PROXY" "proxy.noProxy" }}
{{- range $where := list "extraEnv" "secrets" }}
  {{- range $name, $_ := get $values $where }}
    {{- if hasPrefix "DISTRAIN_" $name }}
      {{- fail (printf "%s.%s is a setting of the trainer; set it under trainer" $where $name) }}
    {{- end }}
    {{- if regexMatch "^(RUN|PET)_" $name }}
      {{- fail (printf "%s.%s is set by the chart or the operator; remove it" $where $name) }}
    {{- end }}
    {{- if hasPrefix "NCCL_" $name }}
      {{- fail (printf "%s.%s is a variable of NCCL; set it under nccl" $where $name) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- range $name, $value := .extraEnv }}
  {{- if hasKey $values.secrets $name }}
    {{- fail (printf "%s is under extraEnv and under secrets; remove one of them" $name) }}
  {{- end }}
  {{- if and (kindIs "string" $value) (regexMatch "(TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS|API_KEY|ACCESS_KEY)$" (upper $name)) }}
    {{- fail (printf "extraEnv.%s would store a secret in plain text; put it into a Secret and set secrets.%s.name and .key" $name $name) }}
  {{- end }}
  {{- if has (upper $name) (list "HTTP_PROXY" "HTTPS_PROXY" "NO_PROXY") }}
    {{- fail (printf "extraEnv.%s is what %s sets; use that instead" $name (get $owners (upper $name))) }}
  {{- end }}
  {{- if and (kindIs "string" $value) (regexMatch "://[^/@]*:[^/@]*@" $value) }}
    {{- fail (printf "extraEnv.%s would store a password in plain text; put it into a Secret and set secrets.%s.name and .key" $name $name) }}
  {{- end }}
{{- end }}
{{- $made := include "distrain.proxyEnv" . | fromJson }}
{{- range $where := list "extraEnv" "secrets" }}
  {{- range $name, $_ := get $values $where }}
    {{- if hasKey $made (upper $name) }}
      {{- $owner := get $owners (upper $name) | default "caBundle.configMap" }}
      {{- fail (printf "%s.%s conflicts with %s, which sets the same variable; remove one of them" $where $name $owner) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- range $name := list "http" "https" }}
  {{- if regexMatch "//[^/]*@" (get $values.proxy $name) }}
    {{- fail (printf "proxy.%s would store a password in plain text; put the whole address into a Secret and set secrets.%s_PROXY.name and .key" $name (upper $name)) }}
  {{- end }}
{{- end }}
{{- range $index, $source := .extraEnvFrom }}
  {{- if eq (hasKey $source "configMapRef") (hasKey $source "secretRef") }}
    {{- fail (printf "extraEnvFrom[%d] needs exactly one of configMapRef and secretRef" $index) }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Takes a dictionary: values, gpus (of a pod). */}}
{{- define "distrain.validateDevices" -}}
{{- $values := .values }}
{{- range $kind := list "requests" "limits" }}
  {{- $given := get $values.resources $kind }}
  {{- if hasKey $given $values.gpuResource }}
    {{- fail (printf "resources.%s has %s, which follows from gpus; remove it and set gpus" $kind $values.gpuResource) }}
  {{- end }}
  {{- if and $values.rdma.enabled (hasKey $given $values.rdma.resource) }}
    {{- fail (printf "resources.%s has %s, which follows from rdma.count; remove it and set rdma.count" $kind $values.rdma.resource) }}
  {{- end }}
{{- end }}
{{- if and (gt .gpus 1) (hasPrefix "nvidia.com/mig-" $values.gpuResource) }}
  {{- fail (printf "each pod would have %d of %s, but a process can use one slice of a GPU only; set gpusPerNode to 1" .gpus $values.gpuResource) }}
{{- end }}
{{- end }}

{{/* Kubernetes creates no pod that requests more than its limit. Takes a dictionary: where, resources. */}}
{{- define "distrain.validateResources" -}}
{{- $resources := .resources | default dict }}
{{- range $name, $limit := $resources.limits }}
  {{- $request := index ($resources.requests | default dict) $name | default 0 }}
  {{- $more := subf (include "distrain.quantityAsNumber" $request) (include "distrain.quantityAsNumber" $limit) }}
  {{- if gt (round $more 3) 0.0 }}
    {{- fail (printf "%s.requests.%s is %s, which is more than the limit of %s; lower the request or raise the limit" $.where $name (include "distrain.text" $request) (include "distrain.text" $limit)) }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "distrain.validatePods" -}}
{{- range $name, $_ := .podLabels }}
  {{- if or (has $name (list "app.kubernetes.io/name" "app.kubernetes.io/instance")) (regexMatch "^((training|trainer)\\.kubeflow\\.org|batch\\.kubernetes\\.io|jobset\\.sigs\\.k8s\\.io|(scheduling|kueue)\\.x-k8s\\.io)/" $name) }}
    {{- fail (printf "podLabels has %s, which the chart or an operator sets; remove it" $name) }}
  {{- end }}
{{- end }}
{{- if and .rdma.enabled (not .gpus) }}
  {{- fail "rdma.enabled is true, but the run has no GPUs to connect; set gpus, or rdma.enabled to false" }}
{{- end }}
{{- if and .rdma.enabled (not .rdma.resource) }}
  {{- fail "rdma.enabled is true, but rdma.resource is empty; set it to the resource of the device plugin, such as rdma/hca" }}
{{- end }}
{{- if and (eq (toJson .podSecurity.runAsUser) "0") (not .rdma.enabled) }}
  {{- fail "podSecurity.runAsUser is 0, which is for RDMA only; set it to 1000, or to null" }}
{{- end }}
{{- end }}

{{- define "distrain.validateScheduling" -}}
{{- $policy := .schedulingPolicy }}
{{- if and .kueue.priorityClass (not .kueue.queue) }}
  {{- fail "kueue.priorityClass is set, but kueue.queue is empty; set it to the name of a LocalQueue" }}
{{- end }}
{{- if eq .backend "trainjob" }}
  {{- if $policy.priorityClass }}
    {{- fail "schedulingPolicy.priorityClass has no effect with backend=trainjob; set priorityClassName" }}
  {{- end }}
  {{- if and $policy.queue (ne .schedulerName "volcano") }}
    {{- fail "schedulingPolicy.queue needs Volcano with backend=trainjob; set schedulerName to volcano, or kueue.queue" }}
  {{- end }}
  {{- if and $policy.scheduleTimeoutSeconds (eq .schedulerName "volcano") }}
    {{- fail "schedulingPolicy.scheduleTimeoutSeconds has no effect on Volcano with backend=trainjob; remove it" }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Refuses an upgrade that would change a run, where Helm has a cluster to look at. */}}
{{- define "distrain.validateUpgrade" -}}
{{- $installed := (lookup "v1" "ConfigMap" .Release.Namespace (include "distrain.configMapName" .)).data }}
{{- if and $installed (ne $installed.RUN_SETTINGS_HASH (include "distrain.runHash" .)) }}
  {{- $before := omit $installed "RUN_SETTINGS_HASH" }}
  {{- $after := include "distrain.settings" . | fromYaml }}
  {{- $changes := list }}
  {{- range $name := concat (keys $before) (keys $after) | uniq | sortAlpha }}
    {{- $old := get $before $name | default "unset" }}
    {{- $new := get $after $name | default "unset" }}
    {{- if ne $old $new }}
      {{- $setting := trimPrefix "DISTRAIN_" $name | lower | replace "__" "." }}
      {{- $changes = append $changes (printf "trainer.%s was %s and would be %s" $setting $old $new) }}
    {{- end }}
  {{- end }}
  {{- $what := $changes | join ", " | default "the pods would change" }}
  {{- $mend := "install under another name" }}
  {{- if include "distrain.claimStays" .Values.persistence }}
    {{- $mend = printf "helm uninstall %s -n %s and install again, and it resumes from its newest checkpoint; or %s" .Release.Name .Release.Namespace $mend }}
  {{- end }}
  {{- fail (printf "%s was installed with other values (%s), which a run keeps to its end; %s" .Release.Name $what $mend) }}
{{- end }}
{{- end }}
