{{/* Tealgate's file, made of the values. Paths are where _pod.tpl mounts things. */}}

{{- define "tealgate.config" -}}
{{- if .Values.rawConfig -}}
{{ .Values.rawConfig }}
{{- else -}}
version: 1
workers: {{ .Values.workers }}
log:
  {{- toYaml .Values.log | nindent 2 }}
listeners:
  {{- include "tealgate.listeners" . | fromJsonArray | toYaml | nindent 2 }}
admin:
  {{- include "tealgate.admin" . | fromJson | toYaml | nindent 2 }}
health:
  bind: {{ printf "%s:7181" .Values.listeners.address | quote }}
state:
  dir: /var/lib/tealgate/state
apps:
  {{- include "tealgate.apps" . | fromJson | toYaml | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "tealgate.listeners" -}}
{{- $listeners := list -}}
{{- $address := .Values.listeners.address -}}
{{- with .Values.listeners.live -}}
  {{- if .enabled -}}
    {{- $own := dict "name" "live" "bind" (printf "%s:%v" $address .port) -}}
    {{- $listeners = append $listeners (merge $own .settings) -}}
  {{- end -}}
{{- end -}}
{{- with .Values.listeners.liveTls -}}
  {{- if .enabled -}}
    {{- if not .secrets -}}
      {{- fail "listeners.liveTls wants secrets: name at least one Secret of type kubernetes.io/tls" -}}
    {{- end -}}
    {{- $certificates := list -}}
    {{- range .secrets -}}
      {{- $files := printf "/etc/tealgate-tls/%s/tls" . -}}
      {{- $certificates = append $certificates (dict "cert" (printf "%s.crt" $files) "key" (printf "%s.key" $files)) -}}
    {{- end -}}
    {{- $tls := merge (dict "certificates" $certificates) .tls -}}
    {{- $own := dict "name" "live-tls" "bind" (printf "%s:%v" $address .port) "tls" $tls -}}
    {{- $listeners = append $listeners (merge $own .settings) -}}
  {{- end -}}
{{- end -}}
{{- with .Values.listeners.preview -}}
  {{- if .enabled -}}
    {{- $own := dict "name" "preview" "role" "preview" "bind" (printf "%s:%v" $address .port) -}}
    {{- $listeners = append $listeners (merge $own .settings) -}}
  {{- end -}}
{{- end -}}
{{- toJson $listeners -}}
{{- end -}}

{{- define "tealgate.admin" -}}
{{- $admin := dict "socket" "/run/tealgate/admin.sock" -}}
{{- if .Values.admin.enabled -}}
  {{- if not (or (include "tealgate.hasTokens" .) .Values.admin.kubernetesAuth) -}}
    {{- fail "admin.enabled wants admin.tokens (`tealgate token new` prints an entry), admin.existingSecret, or admin.kubernetesAuth" -}}
  {{- end -}}
  {{- $service := printf "%s-admin" (include "tealgate.fullname" .) -}}
  {{- $within := printf "%s.%s" $service .Release.Namespace -}}
  {{- $hosts := list $service $within (printf "%s.svc" $within) (printf "%s.svc.cluster.local" $within) -}}
  {{- $_ := set $admin "bind" (printf "%s:%v" .Values.listeners.address .Values.admin.port) -}}
  {{- $_ := set $admin "hosts" (concat $hosts .Values.admin.hosts | uniq) -}}
  {{- if include "tealgate.hasTokens" . -}}
    {{- $_ := set $admin "tokens" "/etc/tealgate-tokens/tokens.yaml" -}}
  {{- end -}}
  {{- if .Values.admin.kubernetesAuth -}}
    {{- $_ := set $admin "kubernetes_auth" true -}}
  {{- end -}}
{{- end -}}
{{- toJson $admin -}}
{{- end -}}
