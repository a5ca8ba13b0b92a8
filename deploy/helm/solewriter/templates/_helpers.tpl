{{- define "solewriter.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "solewriter.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: serve
{{- end -}}

{{- define "solewriter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "solewriter.image" -}}
{{- $repository := required "image.repository is required: the image that deploy/Containerfile builds, in your registry" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "solewriter.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "solewriter.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- /* The ConfigMap with the policy's files; nothing where it is in the bucket. */ -}}
{{- define "solewriter.policyConfigMap" -}}
{{- if .Values.policy.configMap -}}
{{ .Values.policy.configMap }}
{{- else if .Values.policy.files -}}
{{ include "solewriter.fullname" . }}-policy
{{- end -}}
{{- end -}}

{{- /* What may run a container under the Pod Security Standard "restricted", and writes nothing. */ -}}
{{- define "solewriter.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "solewriter.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- /* The settings of `serve`. What the values say stands below what the chart knows. */ -}}
{{- define "solewriter.settings" -}}
{{- $seeds := "/etc/solewriter/seeds/" -}}
{{- $keys := .Values.seeds.keys -}}
{{- $nats := dict "nkey_seed" (printf "%s%s" $seeds $keys.callout) -}}
{{- $chart := dict "nats" $nats "issuer" (dict "seed" (printf "%s%s" $seeds $keys.issuer)) -}}
{{- if $keys.xkey }}{{ $_ := set $chart "xkey" (dict "seed" (printf "%s%s" $seeds $keys.xkey)) }}{{ end -}}
{{- if $keys.system }}{{ $_ := set $chart "system" (dict "nkey_seed" (printf "%s%s" $seeds $keys.system)) }}{{ end -}}
{{- $policy := dict "keep" "/var/lib/solewriter/policy.kept" -}}
{{- if include "solewriter.policyConfigMap" . }}
{{- $_ := set $policy "directory" "/etc/solewriter/policy" -}}
{{- else }}
{{- $_ := set $policy "bucket" (required "policy.bucket, policy.configMap or policy.files says where the policy is" .Values.policy.bucket) -}}
{{- end -}}
{{- $_ := set $chart "policy" $policy -}}
{{- $_ := set $chart "http" (dict "listen" (printf "0.0.0.0:%d" (int .Values.port))) -}}
{{- $given := deepCopy .Values.settings -}}
{{- if .Values.audit.enabled }}
{{- $_ := set $chart "audit" (dict "spool" "/var/lib/solewriter/audit-spool") -}}
{{- else }}
{{- $_ := unset $given "audit" -}}
{{- end -}}
{{- range $table, $settings := mergeOverwrite $given $chart }}
[{{ $table }}]
{{- range $key, $value := $settings }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{ end -}}
{{- end -}}
