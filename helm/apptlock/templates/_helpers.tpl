{{/*
Shared helpers for names, labels, images and environment. No objects here.
*/}}

{{- define "apptlock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimAll "-." }}
{{- end }}

{{/*
45 characters, so that a suffix fits into 63. Unlike a release, a service may not have dots in its name, nor start with a
digit, which the checks reject.
*/}}
{{- define "apptlock.fullname" -}}
{{- $name := include "apptlock.name" . }}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $both .Values.fullnameOverride | replace "." "-" | trunc 45 | trimAll "-" }}
{{- end }}

{{/* Without a version: a change of these labels needs a new Deployment. */}}
{{- define "apptlock.instanceLabels" -}}
app.kubernetes.io/name: {{ include "apptlock.name" . | toYaml }}
app.kubernetes.io/instance: {{ .Release.Name | toYaml }}
{{- end }}

{{/* Selects the replicas, not the pods of migrations and tests. */}}
{{- define "apptlock.selectorLabels" -}}
{{ include "apptlock.instanceLabels" . }}
app.kubernetes.io/component: server
{{- end }}

{{/*
Metadata of an object. Takes a list: the context, a suffix of the name, the component, and optionally annotations, extra
labels, and a namespace. Labels that the chart selects by cannot be overridden.
*/}}
{{- define "apptlock.metadata" -}}
{{- $ := index . 0 }}
{{- $annotations := dict }}
{{- $more := dict }}
{{- $namespace := "" }}
{{- if gt (len .) 3 }}{{ $annotations = index . 3 }}{{ end }}
{{- if gt (len .) 4 }}{{ $more = index . 4 }}{{ end }}
{{- if gt (len .) 5 }}{{ $namespace = index . 5 }}{{ end }}
{{- $labels := include "apptlock.instanceLabels" $ | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/component" (index . 2) }}
{{- $_ := set $labels "app.kubernetes.io/version" $.Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
name: {{ print (include "apptlock.fullname" $) (index . 1) | toYaml }}
namespace: {{ $namespace | default $.Release.Namespace | toYaml }}
labels:
  {{- toYaml (merge $labels (default dict $more) (default dict $.Values.commonLabels)) | nindent 2 }}
{{- with merge (default dict $annotations | deepCopy) (default dict $.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "apptlock.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "apptlock.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "apptlock.image" -}}
{{- $registry := default .Values.image.registry (.Values.global).imageRegistry }}
{{- $name := ternary (printf "%s/%s" $registry .Values.image.repository) .Values.image.repository (ne $registry "") }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "apptlock.testImage" -}}
{{- $registry := default .Values.tests.image.registry (.Values.global).imageRegistry }}
{{- $name := ternary (printf "%s/%s" $registry .Values.tests.image.repository) .Values.tests.image.repository (ne $registry "") }}
{{- if .Values.tests.image.digest }}
{{- printf "%s@%s" $name .Values.tests.image.digest }}
{{- else }}
{{- printf "%s:%s" $name .Values.tests.image.tag }}
{{- end }}
{{- end }}

{{- define "apptlock.imagePullSecrets" -}}
{{- $secrets := default list .Values.imagePullSecrets }}
{{- range (.Values.global).imagePullSecrets }}
{{- $secrets = append $secrets (kindIs "map" . | ternary . (dict "name" .)) }}
{{- end }}
{{- with $secrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* "true" if a variable may come from `extraEnv` or `extraEnvFrom`, so that its value is unknown. Takes context, name. */}}
{{- define "apptlock.mayBeExtra" -}}
{{- $name := index . 1 }}
{{- if (index . 0).Values.extraEnvFrom }}true{{ end }}
{{- range (index . 0).Values.extraEnv }}{{ if eq .name $name }}true{{ end }}{{ end }}
{{- end }}

{{- define "apptlock.hasRedis" -}}
{{- if or .Values.redis.url .Values.redis.existingSecret.name (include "apptlock.mayBeExtra" (list . "REDIS_URL")) }}true{{ end }}
{{- end }}

{{- define "apptlock.hasDatabaseCa" -}}
{{- if or .Values.database.ca.existingSecret .Values.database.ca.existingConfigMap }}true{{ end }}
{{- end }}

{{- define "apptlock.hasRedisCa" -}}
{{- if or .Values.redis.ca.existingSecret .Values.redis.ca.existingConfigMap }}true{{ end }}
{{- end }}

{{/* Minimum number of replicas; nothing if it is set outside the chart (`replicaCount: null`). */}}
{{- define "apptlock.replicas" -}}
{{- if .Values.autoscaling.enabled }}
{{- int .Values.autoscaling.minReplicas }}
{{- else if not (kindIs "invalid" .Values.replicaCount) }}
{{- int .Values.replicaCount }}
{{- end }}
{{- end }}

{{/* "true" if more than one replica is possible, otherwise nothing. */}}
{{- define "apptlock.several" -}}
{{- if .Values.autoscaling.enabled }}
{{- if gt (int .Values.autoscaling.maxReplicas) 1 }}true{{ end }}
{{- else if kindIs "invalid" .Values.replicaCount }}true
{{- else if gt (int .Values.replicaCount) 1 }}true
{{- end }}
{{- end }}

{{/*
Variables of a container, without duplicates, which a server-side apply rejects: the last one counts, from `extraEnv`.
*/}}
{{- define "apptlock.eachOnce" -}}
{{- $last := dict }}
{{- $all := fromYamlArray . }}
{{- range $place, $one := $all }}{{ $_ := set $last $one.name $place }}{{ end }}
{{- range $place, $one := $all }}
{{- if eq (int (get $last $one.name)) $place }}
{{ toYaml (list $one) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Variable from a secret. Takes its name, the secret's name, the key. */}}
{{- define "apptlock.fromSecret" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 | toYaml }}
      key: {{ index . 2 | toYaml }}
{{- end }}

{{/* Database URL of replicas. */}}
{{- define "apptlock.databaseEnv" -}}
{{- if .Values.database.existingSecret.name }}
{{- include "apptlock.fromSecret" (list "DATABASE_URL" (tpl .Values.database.existingSecret.name .) .Values.database.existingSecret.key) }}
{{- else if .Values.database.url }}
{{- include "apptlock.fromSecret" (list "DATABASE_URL" (include "apptlock.fullname" .) "DATABASE_URL") }}
{{- end }}
{{- end }}

{{/*
Variables of `apptlock migrate`: database, timeout, log. Takes the context and the name of the chart's secret, which differs
for the hook.
*/}}
{{- define "apptlock.migrateEnv" -}}
{{- $ := index . 0 }}
{{- $secret := index . 1 }}
{{- if $.Values.migrations.database.existingSecret.name }}
{{ include "apptlock.fromSecret" (list "DATABASE_URL" (tpl $.Values.migrations.database.existingSecret.name $) $.Values.migrations.database.existingSecret.key) }}
{{- else if $.Values.migrations.database.url }}
{{ include "apptlock.fromSecret" (list "DATABASE_URL" $secret "MIGRATE_DATABASE_URL") }}
{{- else if $.Values.database.existingSecret.name }}
{{ include "apptlock.fromSecret" (list "DATABASE_URL" (tpl $.Values.database.existingSecret.name $) $.Values.database.existingSecret.key) }}
{{- else if $.Values.database.url }}
{{ include "apptlock.fromSecret" (list "DATABASE_URL" $secret "DATABASE_URL") }}
{{- end }}
- name: MIGRATE_TIMEOUT
  value: {{ $.Values.migrations.timeout | quote }}
- name: LOG_FORMAT
  value: {{ $.Values.config.log.format | quote }}
- name: RUST_LOG
  value: {{ $.Values.config.log.filter | quote }}
{{- /* extraEnvFrom does not provide the separate database of migrations. */}}
{{- $own := or $.Values.migrations.database.url $.Values.migrations.database.existingSecret.name }}
{{- range $.Values.extraEnv }}
{{- if not (and $own (eq .name "DATABASE_URL")) }}
{{ toYaml (list .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Secrets of a replica, and values known only to the pod. */}}
{{- define "apptlock.serverEnv" -}}
{{- include "apptlock.databaseEnv" . }}
{{- if .Values.redis.existingSecret.name }}
{{ include "apptlock.fromSecret" (list "REDIS_URL" (tpl .Values.redis.existingSecret.name .) .Values.redis.existingSecret.key) }}
{{- else if .Values.redis.url }}
{{ include "apptlock.fromSecret" (list "REDIS_URL" (include "apptlock.fullname" .) "REDIS_URL") }}
{{- end }}
{{- if eq .Values.config.auth.mode "jwt" }}
{{- if .Values.jwt.existingSecret.name }}
{{ include "apptlock.fromSecret" (list .Values.jwt.existingSecret.variable (tpl .Values.jwt.existingSecret.name .) .Values.jwt.existingSecret.key) }}
{{- else if .Values.jwt.secret }}
{{ include "apptlock.fromSecret" (list "JWT_SECRET" (include "apptlock.fullname" .) "JWT_SECRET") }}
{{- end }}
{{- end }}
{{- if .Values.config.tracing.enabled }}
{{- if .Values.config.tracing.headersSecret.name }}
{{ include "apptlock.fromSecret" (list "OTEL_EXPORTER_OTLP_HEADERS" (tpl .Values.config.tracing.headersSecret.name .) .Values.config.tracing.headersSecret.key) }}
{{- end }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ include "apptlock.resourceAttributes" . | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Kubernetes expands $(…) from the three variables above, which must come first. */}}
{{- define "apptlock.resourceAttributes" -}}
k8s.pod.name=$(POD_NAME),k8s.namespace.name=$(POD_NAMESPACE),k8s.node.name=$(NODE_NAME),k8s.deployment.name={{ include "apptlock.fullname" . }}
{{- range $key, $value := .Values.config.tracing.resourceAttributes }},{{ $key }}={{ $value }}{{ end }}
{{- end }}

{{- define "apptlock.volumes" -}}
{{- if include "apptlock.hasDatabaseCa" . }}
- name: database-ca
  {{- if .Values.database.ca.existingSecret }}
  secret:
    secretName: {{ tpl .Values.database.ca.existingSecret . | toYaml }}
  {{- else }}
  configMap:
    name: {{ tpl .Values.database.ca.existingConfigMap . | toYaml }}
  {{- end }}
    items:
      - key: {{ .Values.database.ca.key | toYaml }}
        path: ca.crt
{{- end }}
{{- if include "apptlock.hasRedisCa" . }}
- name: redis-ca
  {{- if .Values.redis.ca.existingSecret }}
  secret:
    secretName: {{ tpl .Values.redis.ca.existingSecret . | toYaml }}
  {{- else }}
  configMap:
    name: {{ tpl .Values.redis.ca.existingConfigMap . | toYaml }}
  {{- end }}
    items:
      - key: {{ .Values.redis.ca.key | toYaml }}
        path: ca.crt
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "apptlock.volumeMounts" -}}
{{- if include "apptlock.hasDatabaseCa" . }}
- name: database-ca
  mountPath: /etc/apptlock/database-ca
  readOnly: true
{{- end }}
{{- if include "apptlock.hasRedisCa" . }}
- name: redis-ca
  mountPath: /etc/apptlock/redis-ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
