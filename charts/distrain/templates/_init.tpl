{{/*
Every template starts with this, so that no object is made of values that were not validated. The first one validates
for all.
*/}}
{{- define "distrain.init" -}}
{{- if not .Values.validated }}
  {{- include "distrain.validate" . }}
  {{- $_ := set .Values "validated" true }}
{{- end }}
{{- end }}
