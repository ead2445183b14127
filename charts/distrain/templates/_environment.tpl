{{/*
The variables of the trainer's container that are no settings. Takes a dictionary: root, size, hash.
*/}}
{{- define "distrain.env" -}}
{{- $values := .root.Values }}
{{- $plain := dict
  "RUN_NODES" .size.nodes
  "RUN_PROCESSES_PER_NODE" .size.processes
  "RUN_GPUS_PER_NODE" .size.gpus
  "RUN_GRACE_SECONDS" $values.gracePeriodSeconds
  "RUN_SETTINGS_HASH" .hash }}
{{- if $values.metrics.enabled }}{{ $_ := set $plain "RUN_METRICS_PORT" "9400" }}{{ end }}
{{- with $values.proxy }}
  {{- with .http }}{{ $_ := set $plain "HTTP_PROXY" . }}{{ end }}
  {{- with .https }}{{ $_ := set $plain "HTTPS_PROXY" . }}{{ end }}
  {{- if and .none (or .http .https) }}{{ $_ := set $plain "NO_PROXY" .none }}{{ end }}
{{- end }}
{{- if $values.caBundle.configMap }}
  {{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "CURL_CA_BUNDLE" }}
    {{- $_ := set $plain . (printf "/etc/ca/%s" $values.caBundle.key) }}
  {{- end }}
{{- end }}
{{- range $name, $value := merge $plain $values.nccl $values.extraEnv }}
- name: {{ $name | quote }}
  value: {{ include "distrain.text" $value | toJson }}
{{- end }}
{{- range $name, $secret := $values.secrets }}
- name: {{ $name | quote }}
  valueFrom:
    secretKeyRef: {name: {{ $secret.name | quote }}, key: {{ $secret.key | quote }}}
{{- end }}
{{- end }}
