{{/*
Grace period of a pod. apptlock needs at most drain.delay + drain.time + 12 s after SIGTERM, in addition to preStop. All values
are milliseconds, as strings.
*/}}

{{- define "apptlock.milliseconds" -}}
{{- $sum := 0 }}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 "w" 604800000 }}
{{- range regexFindAll "[0-9]+ ?(ms|s|m|h|d|w)" . -1 }}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (get $units (regexFind "[a-z]+" .))) }}
{{- end }}
{{- $sum }}
{{- end }}

{{/* Lower bound of the grace period. */}}
{{- define "apptlock.stopMilliseconds" -}}
{{- $delay := include "apptlock.milliseconds" .Values.config.drain.delay | int64 }}
{{- $time := include "apptlock.milliseconds" .Values.config.drain.time | int64 }}
{{- add $delay $time 12000 (mul 1000 (.Values.shutdown.preStopSleepSeconds | int64)) }}
{{- end }}

{{- define "apptlock.gracePeriodSeconds" -}}
{{- if kindIs "invalid" .Values.shutdown.gracePeriodSeconds }}
{{- max 30 (add 5 (div (include "apptlock.stopMilliseconds" . | int64) 1000)) }}
{{- else }}
{{- .Values.shutdown.gracePeriodSeconds | int64 }}
{{- end }}
{{- end }}
