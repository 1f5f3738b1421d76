{{/*
Annotations for sticky sessions (needed by long-polling) and long-lived connections, by ingress controller: those of the
Ingress, and those of the service.
*/}}

{{- define "apptlock.ingressAnnotations" -}}
{{- $idle := .Values.ingress.idleTimeoutSeconds | int }}
{{- $cookie := .Values.ingress.cookieName }}
{{- if eq .Values.ingress.preset "nginx" }}
nginx.ingress.kubernetes.io/affinity: cookie
# Persistent: a new replica does not take over clients of the others.
nginx.ingress.kubernetes.io/affinity-mode: persistent
nginx.ingress.kubernetes.io/session-cookie-name: {{ $cookie | quote }}
nginx.ingress.kubernetes.io/session-cookie-path: /
nginx.ingress.kubernetes.io/session-cookie-samesite: Lax
# A client whose replica is gone gets a new cookie.
nginx.ingress.kubernetes.io/session-cookie-change-on-failure: "true"
nginx.ingress.kubernetes.io/proxy-read-timeout: {{ $idle | quote }}
nginx.ingress.kubernetes.io/proxy-send-timeout: {{ $idle | quote }}
{{- else if eq .Values.ingress.preset "haproxy" }}
# HAProxy Technologies' controller. Its idle timeout of WebSockets is global, in its ConfigMap: an hour.
haproxy.org/timeout-server: {{ printf "%ds" $idle | quote }}
# The community controller.
haproxy-ingress.github.io/affinity: cookie
haproxy-ingress.github.io/session-cookie-name: {{ $cookie | quote }}
haproxy-ingress.github.io/session-cookie-strategy: insert
haproxy-ingress.github.io/timeout-server: {{ printf "%ds" $idle | quote }}
haproxy-ingress.github.io/timeout-tunnel: {{ printf "%ds" $idle | quote }}
{{- else if eq .Values.ingress.preset "alb" }}
# Directly to the pods: through nodes a cookie would identify a node, not a replica.
alb.ingress.kubernetes.io/target-type: ip
alb.ingress.kubernetes.io/target-group-attributes: stickiness.enabled=true,stickiness.type=lb_cookie,stickiness.lb_cookie.duration_seconds=86400,deregistration_delay.timeout_seconds=30
# 4000 is its maximum.
alb.ingress.kubernetes.io/load-balancer-attributes: idle_timeout.timeout_seconds={{ min $idle 4000 }}
alb.ingress.kubernetes.io/healthcheck-protocol: HTTP
alb.ingress.kubernetes.io/healthcheck-port: {{ int .Values.containerPorts.management | quote }}
alb.ingress.kubernetes.io/healthcheck-path: /readyz
alb.ingress.kubernetes.io/healthcheck-interval-seconds: "5"
alb.ingress.kubernetes.io/healthcheck-timeout-seconds: "2"
alb.ingress.kubernetes.io/healthy-threshold-count: "2"
alb.ingress.kubernetes.io/unhealthy-threshold-count: "2"
{{- end }}
{{- end }}

{{- define "apptlock.ingressServiceAnnotations" -}}
{{- if .Values.ingress.enabled }}
{{- if eq .Values.ingress.preset "traefik" }}
# Traefik reads stickiness from the service. It has no timeout for open sockets; its entry points' are set on Traefik.
traefik.ingress.kubernetes.io/service.sticky.cookie: "true"
traefik.ingress.kubernetes.io/service.sticky.cookie.name: {{ .Values.ingress.cookieName | quote }}
traefik.ingress.kubernetes.io/service.sticky.cookie.httponly: "true"
traefik.ingress.kubernetes.io/service.sticky.cookie.samesite: lax
{{- if .Values.ingress.tls }}
traefik.ingress.kubernetes.io/service.sticky.cookie.secure: "true"
{{- end }}
{{- else if eq .Values.ingress.preset "haproxy" }}
# HAProxy Technologies' controller reads it only from the service.
haproxy.org/cookie-persistence: {{ .Values.ingress.cookieName | quote }}
{{- else if eq .Values.ingress.preset "gke" }}
# Container-native load balancing: directly to the pods.
cloud.google.com/neg: '{"ingress": true}'
cloud.google.com/backend-config: {{ dict "default" (include "apptlock.fullname" .) | toJson | squote }}
{{- end }}
{{- end }}
{{- end }}
