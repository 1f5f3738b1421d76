{{/*
Helpers for the warnings of NOTES.txt: what the network policy allows, and whether nodes can be drained.
*/}}

{{/*
"true" if the policy allows addresses, such as nodes and cloud load balancers, otherwise nothing. Takes the context, and
http or management. Pod labels never match an address.
*/}}
{{- define "apptlock.letsAddresses" -}}
{{- $ := index . 0 }}
{{- $port := index . 1 }}
{{- $number := get $.Values.containerPorts $port | int }}
{{- $from := get $.Values.networkPolicy (printf "%sFrom" $port) | default list }}
{{- if and (eq $port "http") (not $from) }}true{{ end }}
{{- range $from }}{{ if .ipBlock }}true{{ end }}{{ end }}
{{- range $.Values.networkPolicy.extraIngress }}
{{- $asked := not .ports }}
{{- range .ports }}{{ if or (not .port) (eq (toString .port) $port) (eq (int .port) $number) }}{{ $asked = true }}{{ end }}{{ end }}
{{- if $asked }}
{{- if not .from }}true{{ end }}
{{- range .from }}{{ if .ipBlock }}true{{ end }}{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Ports of URLs that the policy blocks, one per line: `database.url: 6432 (databasePorts)`. Only the ports, because URLs contain
passwords. Ports of `egress.extra` count as allowed, whatever their destination.
*/}}
{{- define "apptlock.closedPorts" -}}
{{- $egress := .Values.networkPolicy.egress }}
{{- $urls := list (list "database.url" .Values.database.url "databasePorts") (list "migrations.database.url" .Values.migrations.database.url "databasePorts") (list "redis.url" .Values.redis.url "redisPorts") }}
{{- if eq .Values.config.auth.mode "jwt" }}
{{- $urls = append $urls (list "jwt.jwksUrl" .Values.jwt.jwksUrl "jwksPorts") }}
{{- end }}
{{- if .Values.config.tracing.enabled }}
{{- $urls = concat $urls (list (list "config.tracing.endpoint" .Values.config.tracing.endpoint "tracingPorts") (list "config.tracing.tracesEndpoint" .Values.config.tracing.tracesEndpoint "tracingPorts")) }}
{{- end }}
{{- $usual := dict "postgres" 5432 "postgresql" 5432 "redis" 6379 "rediss" 6379 "redis-cluster" 6379 "rediss-cluster" 6379 "redis-sentinel" 26379 "rediss-sentinel" 26379 "http" 80 "https" 443 }}
{{- range $urls }}
{{- $which := index . 0 }}
{{- $list := index . 2 }}
{{- $open := get $egress $list | default list }}
{{- with index . 1 }}
{{- $default := get $usual (regexFind "^[a-z-]+" .) }}
{{- $hosts := regexReplaceAll "^[a-z-]+://" . "" | regexFind "^[^/?#]*" | regexFind "[^@]*$" | splitList "," }}
{{- /* Sentinels and cluster nodes, each possibly with its own port. */}}
{{- range regexFindAll "[?&]node=[^&#]+" . -1 }}{{ $hosts = append $hosts (regexReplaceAll "^.node=" . "") }}{{ end }}
{{- range $hosts }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" .) | default $default | int }}
{{- $closed := and . $port }}
{{- range $open }}{{ if eq (int .) $port }}{{ $closed = false }}{{ end }}{{ end }}
{{- range $egress.extra }}
{{- if not .ports }}{{ $closed = false }}{{ end }}
{{- range .ports }}
{{- $first := int .port }}
{{- if or (not .port) (and (le $first $port) (ge (default $first .endPort | int) $port)) }}{{ $closed = false }}{{ end }}
{{- end }}
{{- end }}
{{- if $closed }}
{{ $which }}: {{ $port }} ({{ $list }})
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* "true" if there is a budget. A minAvailable would block the eviction of the last replica; a maxUnavailable does no harm. */}}
{{- define "apptlock.hasBudget" -}}
{{- $asks := not (kindIs "invalid" .Values.podDisruptionBudget.minAvailable) }}
{{- $least := include "apptlock.replicas" . }}
{{- $last := and $asks $least (le (int $least) 1) }}
{{- if and .Values.podDisruptionBudget.enabled (include "apptlock.several" .) (not $last) }}true{{ end }}
{{- end }}

{{/* The bound that blocks every drain at the minimum number of replicas, or nothing. Kubernetes rounds percentages up. */}}
{{- define "apptlock.budgetBlocks" -}}
{{- if include "apptlock.hasBudget" . }}
{{- $least := include "apptlock.replicas" . }}
{{- $may := .Values.podDisruptionBudget.maxUnavailable }}
{{- $stay := .Values.podDisruptionBudget.minAvailable }}
{{- if not (kindIs "invalid" $may) }}
{{- if eq (trimSuffix "%" (toString $may) | int) 0 }}maxUnavailable {{ $may }}{{ end }}
{{- else if kindIs "invalid" $stay }}
{{- else if not $least }}
{{- /* With an unknown number of replicas, only 100 % is certain to be too many. */}}
{{- if eq (toString $stay) "100%" }}minAvailable {{ $stay }}{{ end }}
{{- else }}
{{- $least = int $least }}
{{- $number := toString $stay | trimSuffix "%" | float64 | int }}
{{- if hasSuffix "%" (toString $stay) }}{{ $number = div (add (mul $number $least) 99) 100 | int }}{{ end }}
{{- if ge $number $least }}minAvailable {{ toYaml $stay }} of {{ $least }} replicas{{ end }}
{{- end }}
{{- end }}
{{- end }}
