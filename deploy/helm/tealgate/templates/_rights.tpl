{{/* The rights that roles are made of. */}}

{{/* The rules for (rollouts): to follow, and if (operate) to act on them; of a (cluster) or of a namespace. */}}
{{- define "tealgate.rules" -}}
# To follow: who is active, which pods serve which revision.
- { apiGroups: [""], resources: [services, pods], verbs: [get, list, watch] }
{{- if .rollouts }}
- { apiGroups: [argoproj.io], resources: [rollouts], verbs: [get, list, watch] }
- { apiGroups: [apps], resources: [replicasets], verbs: [get, list, watch] }
{{- end }}
{{- if and .rollouts .operate }}
# To act: promote, abort and retry by the status; reject, roll back and note an override by the Rollout itself.
- apiGroups: [argoproj.io]
  resources: [rollouts, rollouts/status]
  {{- if not .cluster }}
  resourceNames: {{ toJson .rollouts }}
  {{- end }}
  verbs: [patch]
- { apiGroups: [events.k8s.io], resources: [events], verbs: [create] }
{{- if .values.extendDeadlines }}
- { apiGroups: [apps], resources: [replicasets], verbs: [patch] }
{{- end }}
{{- if .values.workloadRef }}
- { apiGroups: [apps], resources: [deployments], verbs: [get, patch] }
{{- end }}
{{- end }}
{{- end }}

{{/* Who a role is for. */}}
{{- define "tealgate.subject" -}}
subjects:
  - kind: ServiceAccount
    name: {{ include "tealgate.serviceAccount" . }}
    namespace: {{ .Release.Namespace }}
{{- end }}
