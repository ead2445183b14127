{{/*
Nodes and what is on each of them, as JSON: nodes, gpusPerNode, processesPerNode.
*/}}
{{- define "distrain.topology" -}}
{{- $gpus := int .Values.gpus }}
{{- $perNode := int (.Values.gpusPerNode | default 8) }}
{{- $nodes := 1 }}
{{- $processes := 1 }}
{{- if $gpus }}
  {{- if gt $gpus $perNode }}
    {{- if mod $gpus $perNode }}
      {{- $less := mul (div $gpus $perNode) $perNode }}
      {{- fail (printf "gpus is %d, but a node has %d (gpusPerNode) and a run takes whole nodes; set gpus to %d or %d" $gpus $perNode $less (add $less $perNode)) }}
    {{- end }}
    {{- $nodes = div $gpus $perNode }}
    {{- $gpus = $perNode }}
  {{- end }}
  {{- $processes = $gpus }}
  {{- if and .Values.nodes (ne (int .Values.nodes) (int $nodes)) }}
    {{- $all := int .Values.gpus }}
    {{- $mend := "or remove nodes" }}
    {{- if not (mod $all (int .Values.nodes)) }}
      {{- $mend = printf "or set gpusPerNode to %d" (div $all (int .Values.nodes)) }}
    {{- end }}
    {{- fail (printf "nodes is %d, but gpus=%d with gpusPerNode=%d makes %d; set gpus to %d, %s" (int .Values.nodes) $all $perNode $nodes (mul (int .Values.nodes) $perNode) $mend) }}
  {{- end }}
  {{- if and .Values.processesPerNode (ne (int .Values.processesPerNode) $gpus) }}
    {{- fail (printf "processesPerNode is %d, but there is one process per GPU and each node of this run has %d; remove processesPerNode" (int .Values.processesPerNode) $gpus) }}
  {{- end }}
{{- else }}
  {{- $nodes = int (.Values.nodes | default 1) }}
  {{- if and .Values.gpusPerNode (kindIs "invalid" .Values.gpus) }}
    {{- fail (printf "gpusPerNode is %d, but gpus is not set, so the run would train on the CPU; set gpus to %d, or to 0 for the CPU" $perNode (mul $nodes $perNode)) }}
  {{- end }}
  {{- $processes = int (.Values.processesPerNode | default 1) }}
{{- end }}
{{- dict "nodes" $nodes "gpusPerNode" $gpus "processesPerNode" $processes | toJson }}
{{- end }}
