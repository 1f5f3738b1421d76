{{/*
Values that cannot work fail the installation with one line: the value, what is wrong, how to fix it. NOTES.txt warns about
questionable ones.
*/}}

{{- define "apptlock.checks" -}}
{{- if regexMatch "^[0-9]" (include "apptlock.fullname" .) }}
{{- fail (printf "fullnameOverride: without it objects are named %s, and a Service's name may not begin with a digit; set one that begins with a letter" (include "apptlock.fullname" .)) }}
{{- end }}
{{- $database := or .Values.database.url .Values.database.existingSecret.name (include "apptlock.mayBeExtra" (list . "DATABASE_URL")) }}
{{- if not $database }}
{{- fail "database: there is none; set database.url, or database.existingSecret.name and .key" }}
{{- end }}
{{- if and .Values.database.url .Values.database.existingSecret.name }}
{{- fail "database: url and existingSecret.name are both set; set one of them" }}
{{- end }}
{{- if and .Values.redis.url .Values.redis.existingSecret.name }}
{{- fail "redis: url and existingSecret.name are both set; set one of them" }}
{{- end }}
{{- if and .Values.migrations.database.url .Values.migrations.database.existingSecret.name }}
{{- fail "migrations.database: url and existingSecret.name are both set; set one of them" }}
{{- end }}
{{- /* Not in the schema, whose errors repeat the value, which contains passwords. */}}
{{- range $which, $url := dict "database.url" .Values.database.url "migrations.database.url" .Values.migrations.database.url }}
{{- if and $url (not (regexMatch "^postgres(ql)?://." $url)) }}
{{- fail (printf "%s: is not a PostgreSQL URL; use postgres://user:password@host:5432/database" $which) }}
{{- end }}
{{- end }}
{{- if and .Values.redis.url (not (regexMatch "^rediss?(-sentinel|-cluster)?://." .Values.redis.url)) }}
{{- fail "redis.url: is not a Redis URL; use redis://user:password@host:6379, or with rediss, redis-sentinel, redis-cluster" }}
{{- end }}
{{- if and .Values.jwt.secret (lt (len .Values.jwt.secret) 32) }}
{{- fail "jwt.secret: has fewer than 32 bytes; generate one with: openssl rand -base64 48" }}
{{- end }}
{{- range $which, $url := dict "endpoint" .Values.config.tracing.endpoint "tracesEndpoint" .Values.config.tracing.tracesEndpoint }}
{{- if and $url (not (regexMatch "^https?://." $url)) }}
{{- fail (printf "config.tracing.%s: is not the URL of a collector; use one such as http://collector:4318" $which) }}
{{- end }}
{{- end }}
{{- range $which, $ca := dict "database" .Values.database.ca "redis" .Values.redis.ca }}
{{- if and $ca.existingSecret $ca.existingConfigMap }}
{{- fail (printf "%s.ca: existingSecret and existingConfigMap are both set; set one of them" $which) }}
{{- end }}
{{- end }}
{{- if and (include "apptlock.hasRedisCa" .) .Values.redis.url (not (hasPrefix "rediss" .Values.redis.url)) }}
{{- fail "redis.ca: is set, and redis.url is not one with TLS; use rediss://, or unset redis.ca" }}
{{- end }}
{{- if eq .Values.config.auth.mode "jwt" }}
{{- $keys := 0 }}
{{- range list .Values.jwt.secret .Values.jwt.publicKey .Values.jwt.jwksUrl .Values.jwt.existingSecret.name }}
{{- if . }}{{ $keys = add1 $keys }}{{ end }}
{{- end }}
{{- $extra := "" }}
{{- range list "JWT_SECRET" "JWT_PUBLIC_KEY" "JWT_JWKS_URL" }}
{{- $extra = print $extra (include "apptlock.mayBeExtra" (list $ .)) }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if and (gt (int $keys) 0) (has .name (list "JWT_SECRET" "JWT_PUBLIC_KEY" "JWT_JWKS_URL")) }}
{{- fail (printf "extraEnv: has %s, and jwt has a key too; set one of them" .name) }}
{{- end }}
{{- end }}
{{- if and (eq (int $keys) 0) (not $extra) }}
{{- fail "jwt: there is no key to verify tokens with; set one of jwt.secret, jwt.publicKey, jwt.jwksUrl and jwt.existingSecret.name, or config.auth.mode to trusted behind a back end that authenticates its users" }}
{{- end }}
{{- if gt (int $keys) 1 }}
{{- fail "jwt: more than one key is set; set one of jwt.secret, jwt.publicKey, jwt.jwksUrl and jwt.existingSecret.name" }}
{{- end }}
{{- end }}
{{- if and .Values.tests.enabled (not (or .Values.tests.image.tag .Values.tests.image.digest)) }}
{{- fail "tests.image: has neither a tag nor a digest; set one of them" }}
{{- end }}
{{- if and .Values.tests.token.value .Values.tests.token.existingSecret.name }}
{{- fail "tests.token: value and existingSecret.name are both set; set one of them" }}
{{- end }}
{{- with .Values.strategy.rollingUpdate }}
{{- if and (eq $.Values.strategy.type "RollingUpdate") (has (toString .maxUnavailable) (list "0" "0%")) (has (toString .maxSurge) (list "0" "0%")) }}
{{- fail "strategy.rollingUpdate: maxUnavailable and maxSurge are both 0, so pods cannot be replaced; raise one of them" }}
{{- end }}
{{- end }}
{{- if and .Values.monitoring.prometheusRule.enabled (not .Values.config.metrics.enabled) }}
{{- fail "monitoring.prometheusRule: is enabled and config.metrics.enabled is false, so ApptlockAbsent would always fire; change one of them" }}
{{- end }}
{{- range $which := list "serviceMonitor" "podMonitor" }}
{{- with get $.Values.monitoring $which }}
{{- if and .enabled .interval .scrapeTimeout (gt (include "apptlock.milliseconds" .scrapeTimeout | int64) (include "apptlock.milliseconds" .interval | int64)) }}
{{- fail (printf "monitoring.%s.scrapeTimeout: is longer than interval, which Prometheus rejects; use a shorter one" $which) }}
{{- end }}
{{- end }}
{{- end }}
{{- if not (or (kindIs "invalid" .Values.podDisruptionBudget.minAvailable) (kindIs "invalid" .Values.podDisruptionBudget.maxUnavailable)) }}
{{- fail "podDisruptionBudget: minAvailable and maxUnavailable are both set; set one of them" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- fail "autoscaling: minReplicas is greater than maxReplicas" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (not (or .Values.autoscaling.targetCPUUtilizationPercentage .Values.autoscaling.targetSockets .Values.autoscaling.extraMetrics)) }}
{{- fail "autoscaling: has no metric; set targetCPUUtilizationPercentage, targetSockets or extraMetrics" }}
{{- end }}
{{- if eq (int .Values.containerPorts.http) (int .Values.containerPorts.management) }}
{{- fail (printf "containerPorts: http and management are both %d; use different ports" (int .Values.containerPorts.http)) }}
{{- end }}
{{- $stop := include "apptlock.stopMilliseconds" . | int64 }}
{{- if le (mul 1000 (include "apptlock.gracePeriodSeconds" . | int64)) $stop }}
{{- fail (printf "shutdown.gracePeriodSeconds: %v is too short; a stop may take preStopSleepSeconds + config.drain.delay + config.drain.time + 12s, which is %vms: use more than that, or null" (toString .Values.shutdown.gracePeriodSeconds) $stop) }}
{{- end }}
{{- if and (gt (int .Values.shutdown.preStopSleepSeconds) 0) (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail "shutdown.preStopSleepSeconds: needs Kubernetes 1.30 or newer; set it to 0, and config.drain.delay to more" }}
{{- end }}
{{- if and .Values.config.tracing.enabled (not (or .Values.config.tracing.endpoint .Values.config.tracing.tracesEndpoint (include "apptlock.mayBeExtra" (list . "OTEL_EXPORTER_OTLP_ENDPOINT")) (include "apptlock.mayBeExtra" (list . "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")))) }}
{{- fail "config.tracing: is enabled and has no endpoint; set config.tracing.endpoint" }}
{{- end }}
{{- /* Values that the chart derives from these, such as ports, probes and the grace period, would not change. */}}
{{- range .Values.extraEnv }}
{{- if has .name (list "LISTEN_ADDR" "MANAGEMENT_ADDR" "DRAIN_DELAY" "DRAIN_TIME" "AUTH_MODE") }}
{{- fail (printf "extraEnv: %s is set by the chart; set containerPorts, config.listenAddress, config.drain or config.auth.mode instead" .name) }}
{{- end }}
{{- end }}
{{- if and .Values.ingress.enabled (eq .Values.ingress.preset "gke") .Values.ingress.className (not (hasKey (default dict .Values.ingress.annotations) "kubernetes.io/ingress.class")) }}
{{- fail "ingress.className: GKE's controller ignores an Ingress that has one; leave it empty, and set the annotation kubernetes.io/ingress.class: gce" }}
{{- end }}
{{- range list (list "config.lock.ttl" .Values.config.lock.ttl 1000 86400000) (list "config.cursor.interval" .Values.config.cursor.interval 10 5000) (list "config.drain.delay" .Values.config.drain.delay 0 60000) (list "config.drain.time" .Values.config.drain.time 0 120000) }}
{{- $is := include "apptlock.milliseconds" (index . 1) | int64 }}
{{- if or (lt $is (index . 2 | int64)) (gt $is (index . 3 | int64)) }}
{{- fail (printf "%s: %s is out of range; use %dms to %dms" (index . 0) (index . 1) (index . 2) (index . 3)) }}
{{- end }}
{{- end }}
{{- if or (hasPrefix "127." .Values.config.listenAddress) (eq "::1" .Values.config.listenAddress) (eq "[::1]" .Values.config.listenAddress) }}
{{- fail "config.listenAddress: is unreachable from outside the pod, including for probes; use 0.0.0.0, or [::]" }}
{{- end }}
{{- if and .Values.autoscaling.enabled .Values.autoscaling.targetCPUUtilizationPercentage (not (dig "requests" "cpu" "" (.Values.resources | default dict))) }}
{{- fail "autoscaling.targetCPUUtilizationPercentage: is a percentage of resources.requests.cpu, which is not set" }}
{{- end }}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) }}
{{- fail "gateway.parentRefs: is empty; set the gateway that the route is attached to" }}
{{- end }}
{{- end }}
