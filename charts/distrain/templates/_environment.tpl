{{/*
The variables of the trainer's container that are no settings. Takes a dictionary: root, topology, hash.
*/}}
{{- define "distrain.env" -}}
{{- $values := .root.Values }}
{{- $plain := dict
  "RUN_NODES" .topology.nodes
  "RUN_PROCESSES_PER_NODE" .topology.processesPerNode
  "RUN_GPUS_PER_NODE" .topology.gpusPerNode
  "RUN_GRACE_SECONDS" $values.gracePeriodSeconds
  "RUN_SETTINGS_HASH" .hash }}
{{- if $values.metrics.enabled }}{{ $_ := set $plain "RUN_METRICS_PORT" "9400" }}{{ end }}
{{- $outside := include "distrain.proxyEnv" $values | fromJson }}
- name: RUN_NODE_NAME
  valueFrom:
    fieldRef: {fieldPath: spec.nodeName}
{{- range $name, $value := merge $plain $outside $values.nccl $values.extraEnv }}
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
What proxy and caBundle make: variable to text, as JSON. A proxy may also come from a Secret.
*/}}
{{- define "distrain.proxyEnv" -}}
{{- $made := dict }}
{{- $secrets := .secrets }}
{{- with .proxy }}
  {{- with .http }}{{ $_ := set $made "HTTP_PROXY" . }}{{ end }}
  {{- with .https }}{{ $_ := set $made "HTTPS_PROXY" . }}{{ end }}
  {{- $any := or .http .https }}
  {{- range $name, $_ := $secrets }}
    {{- if has (upper $name) (list "HTTP_PROXY" "HTTPS_PROXY" "ALL_PROXY") }}{{ $any = true }}{{ end }}
  {{- end }}
  {{- if and .noProxy $any }}{{ $_ := set $made "NO_PROXY" .noProxy }}{{ end }}
{{- end }}
{{- if .caBundle.configMap }}
  {{- $path := printf "/etc/ca/%s" .caBundle.key }}
  {{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "CURL_CA_BUNDLE" }}{{ $_ := set $made . $path }}{{ end }}
{{- end }}
{{- toJson $made }}
{{- end }}
