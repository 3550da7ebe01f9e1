#!/bin/sh
# Start Beam's job server for a Flink cluster, on loopback: it runs any job that it is sent.
#   FLINK_MASTER=HOST:PORT JOB_SERVER="-jar beam-runners-flink-1.20-job-server-2.77.0.jar" sh job-server.sh
# Use the jar of the SDK's version for the Flink version of the cluster.
set -euf
# shellcheck disable=SC2086 # both have several words
exec dicom-router-loopback java ${JAVA_OPTIONS:--Xmx512m} $JOB_SERVER \
    --flink-master="$FLINK_MASTER" \
    --job-port="${JOB_PORT:-8099}" \
    --artifact-port="${ARTIFACT_PORT:-8098}" \
    --expansion-port=0 \
    --artifacts-dir="${ARTIFACTS:-/tmp/beam-artifacts}"
