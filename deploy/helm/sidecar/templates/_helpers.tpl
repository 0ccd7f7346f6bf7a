{{/* Names, labels and what all pods of the chart have in common. */}}

{{- define "sidecar.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "sidecar.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "sidecar.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sidecar.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What selects the pods of a component: (dict "root" $ "component" "webhook"). */}}
{{- define "sidecar.selector" -}}
app.kubernetes.io/name: {{ include "sidecar.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "sidecar.labels" -}}
{{ include "sidecar.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: sidecar
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "sidecar.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}
{{- else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Of a component, such as control-plane: its Service, workload and account. */}}
{{- define "sidecar.controlPlane" -}}{{ include "sidecar.fullname" . }}-control-plane{{- end }}
{{- define "sidecar.webhook" -}}{{ include "sidecar.fullname" . }}-webhook{{- end }}
{{- define "sidecar.releaseKeys" -}}{{ include "sidecar.fullname" . }}-release-keys{{- end }}
{{- define "sidecar.registrationKeys" -}}{{ include "sidecar.fullname" . }}-registration-keys{{- end }}

{{/* The Secret with the control plane's certificate: tls.crt, tls.key, ca.crt. */}}
{{- define "sidecar.controlPlaneTls" -}}
{{- .Values.controlPlane.tls.existingSecret | default (printf "%s-tls" (include "sidecar.controlPlane" .)) }}
{{- end }}

{{/* The names that a Service has in the cluster: (dict "root" $ "service" NAME), as JSON. */}}
{{- define "sidecar.dnsNames" -}}
{{- $ns := .root.Release.Namespace }}
{{- list .service (printf "%s.%s" .service $ns) (printf "%s.%s.svc" .service $ns) (printf "%s.%s.svc.cluster.local" .service $ns) | toJson }}
{{- end }}

{{/* Restricted Pod Security, for the pod and for each container. */}}
{{- define "sidecar.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "sidecar.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where pods go: (dict "root" $ "component" NAME "values" .Values.NAME). Replicas are spread over
nodes and zones as well as can be. */}}
{{- define "sidecar.placement" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "sidecar.selector" $ | nindent 8 }}
{{- end }}
{{- end }}

{{/* Probes at the port `http`. A start may take a minute: a database that is migrated, a volume that
is slow to arrive. */}}
{{- define "sidecar.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 2
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{- define "sidecar.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Who may read health and metrics at `http`: Prometheus, and the pod of `helm test`. The kubelet
comes from the pod's own node, which no policy keeps out. */}}
{{- define "sidecar.metricsFrom" -}}
- from:
    - podSelector:
        matchLabels: {{- include "sidecar.selector" (dict "root" . "component" "test") | nindent 10 }}
    {{- with .Values.networkPolicy.metricsNamespace }}
    - namespaceSelector:
        matchLabels: {kubernetes.io/metadata.name: {{ . }}}
    {{- end }}
  ports: [{protocol: TCP, port: http}]
{{- end }}
