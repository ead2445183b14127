{{/*
Every template starts with this: Helm renders them in no fixed order, and none may read values that were not validated.
Only the first call does the work.
*/}}
{{- define "distrain.init" -}}
{{- if not .Values.validated }}
  {{- include "distrain.replaceNulls" . }}
  {{- include "distrain.validate" . }}
  {{- $_ := set .Values "validated" true }}
{{- end }}
{{- end }}

{{/*
Gives each value that is null its default, so that null undoes what an earlier file set. (Helm removes such a value and its
default.) An entry of a map, such as a variable of extraEnv, is removed.
*/}}
{{- define "distrain.replaceNulls" -}}
{{- $defaults := .Files.Get "defaults.yaml" | fromYaml }}
{{- $trainer := .Values.trainer | default dict }}
{{- include "distrain.removeNullSettings" (dict "trainer" $trainer "nullable" $defaults.nullable) }}
{{- $_ := unset .Values "trainer" }}
{{- include "distrain.removeNulls" .Values }}
{{- $_ := set .Values "trainer" $trainer }}
{{- include "distrain.setDefaults" (dict "values" .Values "defaults" $defaults.values) }}
{{- end }}

{{/* Takes a map. */}}
{{- define "distrain.removeNulls" -}}
{{- range $name, $value := . }}
  {{- if kindIs "invalid" $value }}{{ $_ := unset $ $name }}{{ end }}
  {{- if kindIs "map" $value }}{{ include "distrain.removeNulls" $value }}{{ end }}
{{- end }}
{{- end }}

{{/* Takes a dictionary: trainer, nullable (settings to which null is a value of its own). */}}
{{- define "distrain.removeNullSettings" -}}
{{- $trainer := .trainer }}
{{- $nullable := .nullable }}
{{- range $section, $value := $trainer }}
  {{- if and (kindIs "invalid" $value) (not (has $section $nullable)) }}{{ $_ := unset $trainer $section }}{{ end }}
  {{- if kindIs "map" $value }}
    {{- range $name, $inner := $value }}
      {{- if and (kindIs "invalid" $inner) (not (has (printf "%s.%s" $section $name) $nullable)) }}
        {{- $_ := unset $value $name }}
      {{- end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Adds what is missing. Takes a dictionary: values, defaults. The members of podAnnotations and podSecurity are not added:
there null removes one.
*/}}
{{- define "distrain.setDefaults" -}}
{{- $values := .values }}
{{- range $name, $default := .defaults }}
  {{- if not (hasKey $values $name) }}
    {{- $_ := set $values $name $default }}
  {{- else if and (kindIs "map" $default) (not (has $name (list "podAnnotations" "podSecurity"))) }}
    {{- include "distrain.setDefaults" (dict "values" (get $values $name) "defaults" $default) }}
  {{- end }}
{{- end }}
{{- end }}
