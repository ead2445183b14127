{{/* The spec of the PyTorchJob. Takes a dictionary: root, hash. */}}
{{- define "distrain.pytorchjob" -}}
{{- $topology := include "distrain.topology" .root | fromJson }}
{{- $replica := dict "restartPolicy" "ExitCode" "template" (dict "root" .root "hash" .hash "container" "pytorch" | include "distrain.pod" | fromYaml) -}}
nprocPerNode: {{ $topology.processesPerNode | quote }}
runPolicy:
  cleanPodPolicy: Running
  {{- with include "distrain.schedulingPolicy" .root | fromYaml }}
  schedulingPolicy: {{- toYaml . | nindent 4 }}
  {{- end }}
pytorchReplicaSpecs:
  Master:
    replicas: 1
    {{- toYaml $replica | nindent 4 }}
  {{- if gt (int $topology.nodes) 1 }}
  Worker:
    replicas: {{ sub $topology.nodes 1 }}
    {{- toYaml $replica | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "distrain.schedulingPolicy" -}}
{{- with .Values.schedulingPolicy }}
{{- with .queue }}
queue: {{ . | quote }}
{{- end }}
{{- with .priorityClass }}
priorityClass: {{ . | quote }}
{{- end }}
{{- with .scheduleTimeoutSeconds }}
scheduleTimeoutSeconds: {{ int . }}
{{- end }}
{{- end }}
{{- end }}
