{{/*
The spec of a claim in the cluster, as JSON. Empty where there is none, and where Helm has no cluster to look at.
Takes a dictionary: root, name (empty: no claim).
*/}}
{{- define "distrain.lookupClaim" -}}
{{- $found := dict }}
{{- if .name }}{{ $found = lookup "v1" "PersistentVolumeClaim" .root.Release.Namespace .name }}{{ end }}
{{- $found.spec | default dict | toJson }}
{{- end }}

{{/* Refuses claims that the run cannot use. Takes a dictionary: root, nodes. */}}
{{- define "distrain.validateClaims" -}}
{{- $root := .root }}
{{- $nodes := .nodes }}
{{- $cache := $root.Values.cache.existingClaim }}
{{- with $root.Values.persistence }}
{{- if and (not .enabled) (gt $nodes 1) }}
  {{- fail (printf "persistence.enabled is false, but the run has %d nodes and all of them write to one claim; set it to true" $nodes) }}
{{- end }}
{{- if and (not .enabled) .existingClaim }}
  {{- fail "persistence.existingClaim conflicts with persistence.enabled, which is false; remove one of them" }}
{{- end }}
{{- if and .existingClaim .accessMode }}
  {{- fail "persistence.accessMode describes a claim that the chart makes, which conflicts with persistence.existingClaim; remove one of them" }}
{{- end }}
{{- if and .existingClaim .storageClass }}
  {{- fail "persistence.storageClass describes a claim that the chart makes, which conflicts with persistence.existingClaim; remove one of them" }}
{{- end }}
{{- if and (gt $nodes 1) .accessMode (ne (toString .accessMode) "ReadWriteMany") }}
  {{- fail (printf "persistence.accessMode is %s, but the run has %d nodes and all of them write; set it to ReadWriteMany" .accessMode $nodes) }}
{{- end }}
{{- range $value, $name := dict "persistence.existingClaim" .existingClaim "cache.existingClaim" $cache }}
  {{- $modes := (dict "root" $root "name" $name | include "distrain.lookupClaim" | fromJson).accessModes }}
  {{- if and $modes (gt $nodes 1) (not (has "ReadWriteMany" $modes)) }}
    {{- fail (printf "%s is %s, a claim with %s, but the run has %d nodes and all of them write; name a claim with ReadWriteMany" $value $name (join ", " $modes) $nodes) }}
  {{- end }}
{{- end }}
{{- if and .enabled (not .existingClaim) }}
  {{- include "distrain.validateKeptClaim" (dict "root" $root "nodes" $nodes "persistence" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The claim that an earlier release of this name left is used as it is: only its size can change. */}}
{{- define "distrain.validateKeptClaim" -}}
{{- $name := include "distrain.claimName" .root }}
{{- $kept := dict "root" .root "name" $name | include "distrain.lookupClaim" | fromJson }}
{{- $mend := printf "install under another name, or delete that claim and everything on it (kubectl -n %s delete pvc %s)" .root.Release.Namespace $name }}
{{- with $kept.accessModes }}
{{- if and (gt $.nodes 1) (not (has "ReadWriteMany" .)) }}
  {{- fail (printf "the claim %s already exists with %s, but the run has %d nodes and all of them write; ask for one node, copy its folder to a claim with ReadWriteMany and set persistence.existingClaim, %s" $name (join ", " .) $.nodes $mend) }}
{{- end }}
{{- if and $.persistence.accessMode (not (has $.persistence.accessMode .)) }}
  {{- fail (printf "persistence.accessMode is %s, but the claim %s already exists with %s; remove the value, %s" $.persistence.accessMode $name (join ", " .) $mend) }}
{{- end }}
{{- $class := $kept.storageClassName | default "-" }}
{{- if and $.persistence.storageClass (ne $.persistence.storageClass $class) }}
  {{- fail (printf "persistence.storageClass is %s, but the claim %s already exists with %s; remove the value, %s" $.persistence.storageClass $name $class $mend) }}
{{- end }}
{{- end }}
{{- end }}
