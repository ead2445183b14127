{{/* Labels that select the pods of a run. */}}
{{- define "distrain.selectorLabels" -}}
app.kubernetes.io/name: distrain
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "distrain.labels" -}}
{{ include "distrain.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of the job. Kueue reads the last two. */}}
{{- define "distrain.jobLabels" -}}
{{ include "distrain.labels" . }}
{{- with .Values.group }}
app.kubernetes.io/part-of: {{ . | quote }}
{{- end }}
{{- with .Values.kueue.queue }}
kueue.x-k8s.io/queue-name: {{ . | quote }}
{{- end }}
{{- with .Values.kueue.priorityClass }}
kueue.x-k8s.io/priority-class: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "distrain.configMapName" -}}{{ .Release.Name }}-settings{{- end }}

{{- define "distrain.claimName" -}}
{{ .Values.persistence.existingClaim | default (printf "%s-checkpoint" .Release.Name) }}
{{- end }}

{{/* True where the claim outlives the release, else empty. Takes the value persistence. */}}
{{- define "distrain.claimStays" -}}
{{- if and .enabled (or .existingClaim .keepClaim) }}true{{ end }}
{{- end }}

{{- define "distrain.image" -}}
{{- $repository := .Values.image.repository | default "distrain" }}
{{- if .Values.image.digest }}{{ $repository }}@{{ .Values.image.digest }}
{{- else }}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}
