{{- define "distrain.mounts" -}}
- {name: out, mountPath: /out}
- {name: cache, mountPath: /cache}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- if .Values.caBundle.configMap }}
- {name: ca, mountPath: /etc/ca, readOnly: true}
{{- end }}
{{- range $index, $claim := .Values.dataClaims }}
- {name: data-{{ $index }}, mountPath: {{ $claim.mountPath | toJson }}, readOnly: true}
{{- end }}
{{- range .Values.extraVolumes }}
- {name: {{ .name | quote }}, mountPath: {{ .mountPath | toJson }}, readOnly: {{ .readOnly | default false }}}
{{- end }}
{{- end }}

{{- define "distrain.volumes" -}}
- name: out
  {{- if .Values.persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ include "distrain.claimName" . | quote }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
- name: cache
  {{- if .Values.cache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.cache.existingClaim | quote }}}
  {{- else if .Values.cache.sizeLimit }}
  emptyDir: {sizeLimit: {{ include "distrain.text" .Values.cache.sizeLimit | quote }}}
  {{- else }}
  emptyDir: {}
  {{- end }}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ include "distrain.text" .Values.sharedMemory | quote }}}
{{- with .Values.caBundle }}
{{- if .configMap }}
- name: ca
  configMap:
    name: {{ .configMap | quote }}
    items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]
{{- end }}
{{- end }}
{{- range $index, $claim := .Values.dataClaims }}
- name: data-{{ $index }}
  persistentVolumeClaim: {claimName: {{ $claim.claimName | quote }}, readOnly: true}
{{- end }}
{{- range .Values.extraVolumes }}
- {{- merge (dict "name" .name) .source | toYaml | nindent 2 }}
{{- end }}
{{- end }}
