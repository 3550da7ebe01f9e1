#!/bin/sh
# Run 'dicom-router route' on a Flink cluster, with a worker pool beside each TaskManager. It waits for the job, and
# its exit code is that of any run. Every night:
#   FLINK_MASTER=HOST:PORT sh route.sh --input gs://hospital/incoming --lake gs://hospital/lake --allow_empty
# Continuously, with --source watch --max_parallelism=128 --checkpointing_interval=60000 in addition.
set -eu
exec dicom-router route \
    --runner=FlinkRunner \
    --flink_master="$FLINK_MASTER" \
    --job_endpoint="${JOB_ENDPOINT:-localhost:8099}" \
    --environment_type=EXTERNAL \
    --environment_config="${WORKER_POOL:-localhost:50000}" \
    --parallelism="${PARALLELISM:-2}" \
    "$@"
