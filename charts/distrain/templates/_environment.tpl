{{/*
The environment of the trainer's container. Takes a dictionary: root, topology, hash.
Settings stand here, not in a reference to their ConfigMap: a kubelet keeps its copy of an immutable one for as long
as any pod of its node refers to it.
*/}}
{{- define "distrain.env" -}}
{{- $values := .root.Values }}
{{- $plain := dict
  "RUN_GPUS_PER_NODE" .topology.gpusPerNode
  "RUN_GRACE_SECONDS" $values.gracePeriodSeconds
  "RUN_SETTINGS_HASH" .hash }}
{{- if $values.metrics.enabled }}{{ $_ := set $plain "RUN_METRICS_PORT" "9400" }}{{ end }}
{{- if $values.rdma.enabled }}{{ $_ := set $plain "RUN_RDMA" "1" }}{{ end }}
{{- $proxyEnv := include "distrain.proxyEnv" $values | fromJson }}
{{- range $name, $value := include "distrain.settings" .root | fromYaml }}
- name: {{ $name }}
  value: {{ $value | replace "$" "$$" | toJson }}
{{- end }}
- name: RUN_NODE_NAME
  valueFrom:
    fieldRef: {fieldPath: spec.nodeName}
{{- range $name, $value := merge $plain $proxyEnv $values.nccl $values.extraEnv }}
- name: {{ $name | quote }}
  value: {{ include "distrain.text" $value | toJson }}
{{- end }}
{{- range $name, $secret := $values.secrets }}
- name: {{ $name | quote }}
  valueFrom:
    secretKeyRef: {name: {{ $secret.name | quote }}, key: {{ $secret.key | quote }}}
{{- end }}
{{- end }}

{{/*
The environment variables of proxy and caBundle, as JSON. The address of a proxy may also come from a Secret.
*/}}
{{- define "distrain.proxyEnv" -}}
{{- $env := dict }}
{{- $secrets := .secrets }}
{{- with .proxy }}
  {{- with .http }}{{ $_ := set $env "HTTP_PROXY" . }}{{ end }}
  {{- with .https }}{{ $_ := set $env "HTTPS_PROXY" . }}{{ end }}
  {{- $any := or .http .https }}
  {{- range $name, $_ := $secrets }}
    {{- if has (upper $name) (list "HTTP_PROXY" "HTTPS_PROXY" "ALL_PROXY") }}{{ $any = true }}{{ end }}
  {{- end }}
  {{- if and .noProxy $any }}{{ $_ := set $env "NO_PROXY" .noProxy }}{{ end }}
{{- end }}
{{- if .caBundle.configMap }}
  {{- $path := printf "/etc/ca/%s" .caBundle.key }}
  {{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "CURL_CA_BUNDLE" }}{{ $_ := set $env . $path }}{{ end }}
{{- end }}
{{- toJson $env }}
{{- end }}
