{{/*
Every template starts with this: Helm renders them in no fixed order, and none may read values that were not validated.
Only the first call does the work.
*/}}
{{- define "distrain.init" -}}
{{- if not .Values.validated }}
  {{- include "distrain.validate" . }}
  {{- $_ := set .Values "validated" true }}
{{- end }}
{{- end }}
