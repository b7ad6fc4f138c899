{{/* One object of each kind per cluster: operator and proxy find each other by fixed names, so the release's name is in none of them. */}}

{{- define "sallyport.labels" -}}
app.kubernetes.io/name: sallyport
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "sallyport.selector" -}}
app.kubernetes.io/name: sallyport
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "sallyport.image" -}}
{{- $registry := .root.Values.global.imageRegistry | default .root.Values.image.registry -}}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The gate's Service, for those inside the cluster. */}}
{{- define "sallyport.serviceUrl" -}}
{{- $port := int .Values.proxy.service.port -}}
https://sallyport-proxy.{{ .Release.Namespace }}.svc{{ if ne $port 443 }}:{{ $port }}{{ end }}
{{- end }}

{{/* Where agents reach the gate. */}}
{{- define "sallyport.url" -}}
{{- .Values.proxy.url | default (include "sallyport.serviceUrl" .) }}
{{- end }}

{{/* The Secret that the proxy takes its certificate from. */}}
{{- define "sallyport.tlsSecret" -}}
{{- eq .Values.tls.mode "Secret" | ternary .Values.tls.secretName "sallyport-proxy-tls" }}
{{- end }}

{{/* The store, as the proxy's flag has it. */}}
{{- define "sallyport.store" -}}
{{- if eq .Values.storage.type "S3" -}}
s3://{{ required "storage.s3.bucket is required for storage.type=S3" .Values.storage.s3.bucket }}{{ with .Values.storage.s3.prefix }}/{{ . }}{{ end }}
{{- else -}}
file:///var/lib/sallyport/recordings
{{- end }}
{{- end }}

{{/* Restricted Pod Security, and nothing to write to but what is mounted. */}}
{{- define "sallyport.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Where a pod may run, and how far from its peers. */}}
{{- define "sallyport.placement" -}}
{{- if kindIs "string" .of.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "sallyport.selector" $ | nindent 6 }}
{{- end }}
{{- else }}
{{- with .of.topologySpreadConstraints }}
topologySpreadConstraints:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with index $.of $key }}
{{ $key }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end }}

{{/* Annotations of what `helm test` makes before its pod, and takes away again. */}}
{{- define "sallyport.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
