{{/* The spec of the runtime that the TrainJob refers to. Takes a dictionary: root, hash. */}}
{{- define "distrain.trainjob" -}}
{{- $ := .root }}
{{- $topology := include "distrain.topology" $ | fromJson }}
{{- $volcano := eq $.Values.schedulerName "volcano" -}}
mlPolicy:
  numNodes: {{ $topology.nodes }}
  torch: {}
{{- if $volcano }}
podGroupPolicy:
  volcano: {}
{{- else if $.Values.schedulingPolicy.scheduleTimeoutSeconds }}
podGroupPolicy:
  coscheduling:
    scheduleTimeoutSeconds: {{ int $.Values.schedulingPolicy.scheduleTimeoutSeconds }}
{{- end }}
template:
  {{- with and $volcano $.Values.schedulingPolicy.queue }}
  metadata:
    annotations:
      scheduling.volcano.sh/queue-name: {{ . | quote }}
  {{- end }}
  spec:
    successPolicy:
      operator: All
    replicatedJobs:
      - name: node
        template:
          metadata:
            labels:
              trainer.kubeflow.org/trainjob-ancestor-step: trainer
          spec:
            completionMode: Indexed
            {{- /* The trainer itself counts restarts. */}}
            backoffLimit: 2147483647
            {{- /* As with restartPolicy ExitCode of operator v1: 1 to 127 end the run, 128 and above are retried. */}}
            podFailurePolicy:
              rules:
                - action: FailJob
                  onExitCodes:
                    containerName: node
                    operator: In
                    values: {{ untilStep 1 128 1 | toJson }}
                - action: Ignore
                  onPodConditions:
                    - type: DisruptionTarget
                      status: "True"
            template:
              {{- $pod := dict "root" .root "hash" .hash "container" "node" | include "distrain.pod" | fromYaml }}
              {{- $_ := set $pod.spec "restartPolicy" "Never" }}
              {{- toYaml $pod | nindent 14 }}
{{- end }}

{{/* A runtime that is a Helm hook. Takes a dictionary: root, hash, hook, delete (the hook's delete policy). */}}
{{- define "distrain.trainingRuntime" -}}
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainingRuntime
metadata:
  name: {{ .root.Release.Name | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "distrain.labels" .root | nindent 4 }}
    trainer.kubeflow.org/framework: torch
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-delete-policy: {{ .delete }}
spec: {{- include "distrain.trainjob" . | nindent 2 }}
{{- end }}
