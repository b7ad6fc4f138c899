{{/*
What values.schema.json cannot say: sums of several values, and what is in the cluster already. Refused before anything is
installed. `lookup` finds nothing without a cluster (`helm template`), and then only the values are judged.
*/}}
{{- define "sallyport.validate" -}}
{{- include "sallyport.validateValues" . }}
{{- include "sallyport.validateCluster" . }}
{{- end }}

{{- define "sallyport.validateValues" -}}
{{- range $name := list "operator" "proxy" }}
{{- $of := index $.Values $name }}
{{- $scaled := and (eq $name "proxy") $.Values.proxy.autoscaling.enabled }}
{{- $least := int ($scaled | ternary $.Values.proxy.autoscaling.minReplicas $of.replicas) }}
{{- if and $of.podDisruptionBudget.enabled (gt $least 1) (ge (int $of.podDisruptionBudget.minAvailable) $least) }}
{{- fail (printf "\n\n%s.podDisruptionBudget.minAvailable=%v with %d replicas: no node under such a pod could ever be drained. Lower it, or raise the replicas.\n" $name $of.podDisruptionBudget.minAvailable $least) }}
{{- end }}
{{- end }}
{{- if gt (int .Values.proxy.autoscaling.minReplicas) (int .Values.proxy.autoscaling.maxReplicas) }}
{{- fail "\n\nproxy.autoscaling.minReplicas is more than maxReplicas.\n" }}
{{- end }}
{{- end }}

{{- define "sallyport.validateCluster" -}}
{{- $mine := printf "%s in namespace %s" .Release.Name .Release.Namespace }}
{{- with lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "sallyport-operator" }}
{{- $owner := include "sallyport.owner" . }}
{{- if and $owner (ne $owner $mine) }}
{{- fail (printf "\n\nSallyport is installed in this cluster already, as release %s. A cluster has one gate: upgrade that release, or uninstall it first.\n" $owner) }}
{{- end }}
{{- end }}
{{- if .Values.crds.enabled }}
{{- range $plural := list "agentidentities" "accesspolicies" "accessgrants" "sessionrecords" }}
{{- with lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" (printf "%s.sallyport.dev" $plural) }}
{{- $owner := include "sallyport.owner" . }}
{{- if ne $owner $mine }}
{{- fail (printf "\n\nThe CustomResourceDefinition %s is in this cluster already and belongs to %s. Nothing was installed.\nIf Sallyport shall take it over, with every object of that kind, and change its schema:\n  kubectl label crd %s app.kubernetes.io/managed-by=Helm --overwrite\n  kubectl annotate crd %s meta.helm.sh/release-name=%s meta.helm.sh/release-namespace=%s --overwrite\nIf somebody else keeps it up to date: --set crds.enabled=false\n" .metadata.name (empty $owner | ternary "nobody that Helm knows" (printf "release %s" $owner)) .metadata.name .metadata.name $.Release.Name $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Which release an object belongs to; nothing for one that Helm did not make. */}}
{{- define "sallyport.owner" -}}
{{- $notes := .metadata.annotations | default dict }}
{{- with index $notes "meta.helm.sh/release-name" }}{{ . }} in namespace {{ index $notes "meta.helm.sh/release-namespace" }}{{ end }}
{{- end }}
