{{/*
Makes the quantities of a container's resources text, in place: the schemas of jobs take the number 2, but not 0.5.
*/}}
{{- define "distrain.setQuantities" -}}
{{- range $kind := list "requests" "limits" }}
  {{- $quantities := index $ $kind }}
  {{- range $name, $quantity := $quantities }}
    {{- $_ := set $quantities $name (include "distrain.text" $quantity) }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A quantity, such as 500m or 1.5Gi, as a plain number. */}}
{{- define "distrain.quantityAsNumber" -}}
{{- $text := include "distrain.text" . }}
{{- $unit := regexFind "[A-Za-z]*$" $text }}
{{- $number := trimSuffix $unit $text | float64 }}
{{- $thousandths := get (dict "m" 1 "u" 2 "n" 3) $unit }}
{{- if $thousandths }}
  {{- range until $thousandths }}{{ $number = divf $number 1000 }}{{ end }}
{{- else }}
  {{- $base := hasSuffix "i" $unit | ternary 1024 1000 }}
  {{- range until (int (get (dict "" 0 "k" 1 "K" 1 "M" 2 "G" 3 "T" 4 "P" 5 "E" 6) (trimSuffix "i" $unit))) }}
    {{- $number = mulf $number $base }}
  {{- end }}
{{- end }}
{{- $number }}
{{- end }}
