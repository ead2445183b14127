{{/*
A value as text, as it was written: Helm reads 1048576 and 5e-5 in a file as floats, which would print as
1.048576e+06 and 0.00005. Lists and maps become JSON.
*/}}
{{- define "distrain.text" -}}
{{- if kindIs "string" . }}{{ . }}
{{- else if and (kindIs "float64" .) (regexMatch "^-?0\\.0000" (toJson .)) }}{{ printf "%v" . | replace "e-0" "e-" }}
{{- else }}{{ toRawJson . }}
{{- end }}
{{- end }}

{{/*
The settings of the run as YAML: names of environment variables, and their text.
*/}}
{{- define "distrain.settings" -}}
{{- $trainer := .Values.trainer }}
{{- $sources := list $trainer }}
{{- if not (or $trainer.model $trainer.data) }}
  {{- $sources = prepend $sources (.Files.Get "sample.yaml" | fromYaml) }}
{{- end }}
{{- $settings := dict }}
{{- range $source := $sources }}
  {{- range $name, $value := $source }}
    {{- if kindIs "map" $value }}
      {{- range $inner, $text := $value }}
        {{- $_ := set $settings (printf "DISTRAIN_%s__%s" (upper $name) (upper $inner)) (include "distrain.text" $text) }}
      {{- end }}
    {{- else }}
      {{- $_ := set $settings (printf "DISTRAIN_%s" (upper $name)) (include "distrain.text" $value) }}
    {{- end }}
  {{- end }}
{{- end }}
{{- $_ := set $settings "DISTRAIN_OUTPUT_DIR" (printf "/out/%s" .Release.Name) }}
{{- $_ := set $settings "DISTRAIN_RUN_ID" (printf "%s/%s" .Release.Namespace .Release.Name) }}
{{- $_ := set $settings "DISTRAIN_DATA__CACHE" "/cache/distrain" }}
{{- toYaml $settings }}
{{- end }}

{{/*
A hash of everything that must not change during the run: its job, with its settings.
*/}}
{{- define "distrain.runHash" -}}
{{- dict "root" . "hash" "" | include (printf "distrain.%s" .Values.backend) | sha256sum }}
{{- end }}
