{{/* Names, labels, and what other templates ask of the values. What is no text comes as JSON. */}}

{{- define "tealgate.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "tealgate.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tealgate.labels" -}}
{{ include "tealgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The metadata of an object: of (root) with (name), and if need be (namespace), (labels), (annotations). */}}
{{- define "tealgate.metadata" -}}
name: {{ .name }}
namespace: {{ default .root.Release.Namespace .namespace }}
labels:
  {{- include "tealgate.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "tealgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "tealgate.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "tealgate.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether the admin API has a token file. */}}
{{- define "tealgate.hasTokens" -}}
{{- if and .Values.admin.enabled (or .Values.admin.tokens .Values.admin.existingSecret) -}}
yes
{{- end -}}
{{- end -}}

{{/* Whether it asks the cluster who its callers are. */}}
{{- define "tealgate.asksCluster" -}}
{{- if and .Values.admin.enabled .Values.admin.kubernetesAuth -}}
yes
{{- end -}}
{{- end -}}

{{- define "tealgate.tokensSecret" -}}
{{ default (printf "%s-tokens" (include "tealgate.fullname" .)) .Values.admin.existingSecret }}
{{- end -}}

{{/* The apps as they stand in the configuration, as JSON. */}}
{{- define "tealgate.apps" -}}
{{- $apps := .Values.apps -}}
{{- if .Values.rawConfig -}}
  {{- $file := fromYaml .Values.rawConfig -}}
  {{- with $file.Error -}}
    {{- fail (printf "rawConfig is not YAML: %s" .) -}}
  {{- end -}}
  {{- $apps = $file.apps -}}
{{- end -}}
{{- if not $apps -}}
  {{- fail "\n\nNo app, so nothing to serve. Name at least one, in a values file:\n\n  apps:\n    shop:\n      source: { kubernetes: { rollout: shop } }\n" -}}
{{- end -}}
{{- toJson $apps -}}
{{- end -}}

{{/* The namespaces that apps are in, the release's where they name none, each with the names of their Rollouts, as JSON. */}}
{{- define "tealgate.namespaces" -}}
{{- $namespaces := dict -}}
{{- range $name, $app := fromJson (include "tealgate.apps" .) -}}
  {{- with ($app.source | default dict).kubernetes -}}
    {{- if contains "${" (printf "%v%v" .namespace .rollout) -}}
      {{- fail (printf "apps.%s: write the namespace and the rollout out: rights are made from them" $name) -}}
    {{- end -}}
    {{- $namespace := .namespace | default $.Release.Namespace -}}
    {{- $rollouts := get $namespaces $namespace | default list -}}
    {{- with .rollout -}}
      {{- $rollouts = append $rollouts . | uniq | sortAlpha -}}
    {{- end -}}
    {{- $_ := set $namespaces $namespace $rollouts -}}
  {{- end -}}
{{- end -}}
{{- toJson $namespaces -}}
{{- end -}}

{{/* A length of time as Tealgate's file writes it (1m30s), in whole seconds, rounded up. */}}
{{- define "tealgate.seconds" -}}
{{- $total := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h)" . -1 -}}
  {{- $unit := regexFind "[a-z]+" . -}}
  {{- $factor := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) $unit -}}
  {{- $total = addf $total (mulf (trimSuffix $unit .) $factor) -}}
{{- end -}}
{{- ceil $total -}}
{{- end -}}

{{/* From SIGTERM to SIGKILL. The proxy itself allows the longest drain and 5 seconds; the rest is to spare. */}}
{{- define "tealgate.gracePeriod" -}}
{{- if .Values.drain.gracePeriodSeconds -}}
  {{- .Values.drain.gracePeriodSeconds -}}
{{- else -}}
  {{- $longest := 0 -}}
  {{- range $name, $app := fromJson (include "tealgate.apps" .) -}}
    {{- $drain := ($app.drain | default dict).timeout | default "30s" -}}
    {{- $longest = max $longest (include "tealgate.seconds" $drain | int) -}}
  {{- end -}}
  {{- add .Values.drain.delaySeconds $longest 10 -}}
{{- end -}}
{{- end -}}
