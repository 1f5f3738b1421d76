{{/*
What NOTES.txt has to work out before it can warn: who gets through the network policy, and whether a node can be drained.
*/}}

{{/*
Whether the policy lets in somebody by an address, as nodes and a cloud's balancer are: "true" or nothing. Takes the
context, and http or management. Pods' labels never match an address.
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
The ports that URLs have and the policy does not let out, one line each: `database.url: 6432 (databasePorts)`. Never more of a
URL than its ports, since passwords are in it. What `egress.extra` lets out to anybody or somebody counts.
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
{{- /* Sentinels and members of a cluster, of which each may have a port of its own. */}}
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

{{/* Whether there is a budget. One that asks for a number would let the last replica never go; one that lets one go does no harm. */}}
{{- define "apptlock.hasBudget" -}}
{{- $asks := not (kindIs "invalid" .Values.podDisruptionBudget.minAvailable) }}
{{- $least := include "apptlock.replicas" . }}
{{- $last := and $asks $least (le (int $least) 1) }}
{{- if and .Values.podDisruptionBudget.enabled (include "apptlock.several" .) (not $last) }}true{{ end }}
{{- end }}

{{/* How the budget holds up every drain while there are the fewest replicas, or nothing. Kubernetes rounds shares up. */}}
{{- define "apptlock.budgetBlocks" -}}
{{- if include "apptlock.hasBudget" . }}
{{- $least := include "apptlock.replicas" . }}
{{- $may := .Values.podDisruptionBudget.maxUnavailable }}
{{- $stay := .Values.podDisruptionBudget.minAvailable }}
{{- if not (kindIs "invalid" $may) }}
{{- if eq (trimSuffix "%" (toString $may) | int) 0 }}maxUnavailable {{ $may }}{{ end }}
{{- else if kindIs "invalid" $stay }}
{{- else if not $least }}
{{- /* Of a number that nobody knows here, only all of them is certain to be too many. */}}
{{- if eq (toString $stay) "100%" }}minAvailable {{ $stay }}{{ end }}
{{- else }}
{{- $least = int $least }}
{{- $number := toString $stay | trimSuffix "%" | float64 | int }}
{{- if hasSuffix "%" (toString $stay) }}{{ $number = div (add (mul $number $least) 99) 100 | int }}{{ end }}
{{- if ge $number $least }}minAvailable {{ toYaml $stay }} of {{ $least }} replicas{{ end }}
{{- end }}
{{- end }}
{{- end }}
