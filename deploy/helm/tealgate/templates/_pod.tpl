{{/* The pod, the same in a Deployment and in a StatefulSet. */}}

{{- define "tealgate.pod" -}}
metadata:
  labels:
    {{- include "tealgate.labels" . | nindent 4 }}
    app.kubernetes.io/component: proxy
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with merge (dict) .Values.podAnnotations .Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "tealgate.serviceAccount" . }}
  automountServiceAccountToken: {{ or (include "tealgate.namespaces" . | fromJson | empty | not) (include "tealgate.asksCluster" . | empty | not) }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "tealgate.gracePeriod" . }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: { type: RuntimeDefault }
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{ toYaml . | nindent 6 | trim }}
      {{- if not .labelSelector }}
      labelSelector:
        matchLabels:
          {{- include "tealgate.selector" $ | nindent 10 }}
          app.kubernetes.io/component: proxy
      # So that the pods of an update spread among themselves.
      matchLabelKeys: [{{ ternary "controller-revision-hash" "pod-template-hash" (eq $.Values.state.kind "persistent") }}]
      {{- end }}
    {{- end }}
  {{- end }}
  containers:
    - name: tealgate
      image: {{ include "tealgate.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/tealgate/tealgate.yaml]
      {{- with .Values.env }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        {{- with .Values.listeners.live }}
        {{- if .enabled }}
        - { name: live, containerPort: {{ .port }} }
        {{- end }}
        {{- end }}
        {{- with .Values.listeners.liveTls }}
        {{- if .enabled }}
        - { name: live-tls, containerPort: {{ .port }} }
        {{- end }}
        {{- end }}
        {{- with .Values.listeners.preview }}
        {{- if .enabled }}
        - { name: preview, containerPort: {{ .port }} }
        {{- end }}
        {{- end }}
        {{- if .Values.admin.enabled }}
        - { name: admin, containerPort: {{ .Values.admin.port }} }
        {{- end }}
        - { name: health, containerPort: 7181 }
      # It runs also where the cluster cannot be asked yet: to start it anew would help nobody.
      startupProbe:
        httpGet: { path: /livez, port: health }
        periodSeconds: 1
        failureThreshold: 60
      readinessProbe:
        httpGet: { path: /readyz, port: health }
        periodSeconds: 2
        timeoutSeconds: 1
        failureThreshold: 2
      # It fails only where nothing answers at all: a lost API server, say, is no reason to start anew.
      livenessProbe:
        httpGet: { path: /livez, port: health }
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 3
      {{- with .Values.drain.delaySeconds }}
      lifecycle:
        preStop:
          # The pod still serves while it is taken out of the Services; then SIGTERM begins the drain.
          sleep: { seconds: {{ . }} }
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      volumeMounts:
        - { name: config, mountPath: /etc/tealgate, readOnly: true }
        {{- if include "tealgate.hasTokens" . }}
        - { name: tokens, mountPath: /etc/tealgate-tokens, readOnly: true }
        {{- end }}
        {{- if .Values.listeners.liveTls.enabled }}
        {{- range $index, $secret := .Values.listeners.liveTls.secrets }}
        - { name: tls-{{ $index }}, mountPath: /etc/tealgate-tls/{{ $secret }}, readOnly: true }
        {{- end }}
        {{- end }}
        - { name: run, mountPath: /run/tealgate }
        - { name: state, mountPath: /var/lib/tealgate }
        {{- with .Values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    # Mounted whole, not by subPath: so changes arrive.
    - name: config
      configMap: { name: {{ include "tealgate.fullname" . }} }
    {{- if include "tealgate.hasTokens" . }}
    - name: tokens
      secret: { secretName: {{ include "tealgate.tokensSecret" . }}, items: [{ key: tokens.yaml, path: tokens.yaml }] }
    {{- end }}
    {{- if .Values.listeners.liveTls.enabled }}
    {{- range $index, $secret := .Values.listeners.liveTls.secrets }}
    - name: tls-{{ $index }}
      secret: { secretName: {{ $secret }}, defaultMode: 0440 }
    {{- end }}
    {{- end }}
    - name: run
      emptyDir: { medium: Memory, sizeLimit: 1Mi }
    {{- if eq .Values.state.kind "emptyDir" }}
    - name: state
      emptyDir: { sizeLimit: {{ .Values.state.size }} }
    {{- end }}
    {{- with .Values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
