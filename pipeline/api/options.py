"""Types of the options of `pipeline.api`.

Written by `make docs` (docs/api_reference.py) from the options of the command line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict

StrPath: TypeAlias = str | os.PathLike[str]


class ObjectKeywords(TypedDict, total=False):
    """Options for reading and deciding one object."""

    model: StrPath
    """model bundle: a folder, local, gs:// or s3://"""
    policy: StrPath | None
    """policy, a YAML file, local, gs:// or s3://; 'dicom-router init' writes one"""
    device: Literal["auto", "cpu", "cuda"]
    """where the model runs; cuda without a usable GPU is an error"""
    frame: int
    """frame of multi-frame objects to classify, from 1; shorter objects use their last"""
    max_object_bytes: int
    """quarantine objects that are larger, also inflated"""
    max_pixels: int
    """quarantine objects with more Rows x Columns"""
    max_frames: int
    """quarantine objects with more frames"""
    max_items: int
    """quarantine objects with more sequence items and fragments"""
    max_nesting: int
    """quarantine objects with deeper nested sequences"""
    max_inflation: int
    """quarantine objects with a higher decompression ratio (small objects exempt)"""
    max_object_seconds: float
    """quarantine objects that take more CPU time to parse and decode, or four times as much
    wall-clock time"""
    max_memory_bytes: int
    """quarantine objects that take more memory to parse and decode"""


class RouteKeywords(ObjectKeywords, total=False):
    """Options of `route`."""

    include: Sequence[str]
    """read only files with these names, in any case: '*.dcm'; a glob with a slash matches the
    path below the input"""
    exclude: Sequence[str]
    """skip files and folders with these names, as for --include; counted in the run summary"""
    no_default_exclude: bool
    """read the names that are skipped by default, such as .DS_Store, ._*, Thumbs.db, *.part
    and .NAME.XXXXXX of rsync"""
    source: Literal["files", "manifest", "dicomweb", "watch", "pubsub"]
    """what --input is. files: objects; manifest: lists of objects (text, .csv, .parquet; -
    reads standard input; inventories of S3, Cloud Storage and Azure); watch: objects, and
    those that arrive later; dicomweb: servers (dicomweb+https://HOST/dicom-web); pubsub:
    subscriptions (projects/P/subscriptions/S) to notifications of Cloud Storage"""
    inventory_root: StrPath | None
    """folder or URI to which names in an inventory are relative, such as a mounted bucket"""
    study_date: str
    """with --source dicomweb: studies of this date (20260131) or range (20260101-20260131,
    20260101-)"""
    modality: Sequence[str]
    """with --source dicomweb: instances of these modalities (DX CR)"""
    ingest_date: str
    """partition of the index, YYYY-MM-DD"""
    placement: Literal["copy", "link", "index_only"]
    """copy objects, hard-link them (same file system), or write only the index; the source is
    never moved or deleted"""
    file_mode: str
    """permissions of new local files of the lake, in octal; who may read a file may open its
    folder; the umask can only narrow them"""
    write_sr: bool
    """write a DICOM Structured Report (TID 1500) about each routed object below
    structured_reports/; needs the extra sr"""
    headers: bool
    """write allow-listed attributes of the header of each object as JSON below headers/"""
    patient_key_file: StrPath | None
    """key (16 bytes or more) of the column patient_key, the HMAC-SHA-256 of Patient ID: a
    file, or projects/P/secrets/S/versions/V in Secret Manager; without it the column is null"""
    allow_empty: bool
    """accept inputs that match nothing"""
    log_uris: bool
    """report failed objects by URI as well as by key; URIs can contain patient names"""
    reprocess: Literal["none", "model", "policy", "all"]
    """which ingested objects to decide again. none; model: those that another model decided;
    policy: those that another model or policy decided; all: every object, and place it again
    if the lake has lost it"""
    shadow_model: StrPath | None
    """second model bundle, whose answers are recorded (columns shadow_*) and decide nothing"""
    overrule_people: bool
    """decide again also what a person has decided"""
    batch_size: int
    """maximum number of images per model call; at most 8 on a CPU"""
    fetch_threads: int | None
    """number of objects that a worker decodes concurrently, and places concurrently"""
    read_ahead_bytes: int | None
    """memory of a worker process for objects that are read before a decoder is free: more
    hides the delay of a store that is farther away"""
    max_reads: int
    """maximum number of concurrent reads of a worker process; how many are needed is measured"""
    index_shards: int
    """maximum number of index files of a batch run; number of append logs of a stream"""
    accelerator: str | None
    """resource hint for the workers that run the model, on engines that support it:
    type:nvidia-l4;count:1;install-nvidia-driver; images then cross a shuffle"""
    lock_timeout: float
    """maximum time to wait while another run writes to the lake; 0 waits without limit"""
    allow_open_ports: bool
    """start Prism or a job server also where it cannot be restricted to loopback: whoever
    reaches its ports can run code"""
    poll_interval: float
    """time between two polls for new objects"""
    stable_for: float
    """read a local file only after this time without change"""
    index_interval: int
    """write the index rows of placed objects at least this often"""
    max_batch_wait: float
    """maximum time that a reference waits for its batch to fill"""
    retry_after: float
    """time until an object without a row is retried; doubled with each retry"""
    max_in_flight: int
    """maximum number of objects in flight"""
    ack_deadline: int
    """time, 10 to 600, after which Pub/Sub redelivers the messages of a lost worker"""
    log_interval: float
    """time between two lines in the log, which say how far the stream is"""
    models: StrPath | None
    """folder of model bundles: the last by name is used from the next batch on, without a
    restart; --model is used until there is one"""
    model_poll_interval: float
    """time between two polls of --models"""
    runner: Literal[
        "DirectRunner",
        "PrismRunner",
        "FlinkRunner",
        "PortableRunner",
        "DataflowRunner",
        "FnApiRunner",
        "BundleBasedDirectRunner",
    ]
    """Beam runner: DirectRunner (in this process; Prism for streams), PrismRunner,
    FlinkRunner, PortableRunner or DataflowRunner"""
    report: StrPath | None
    """write a report on the run to this HTML file when it has ended; see 'dicom-router
    report'"""
    metrics_port: int | None
    """serve metrics for Prometheus on this TCP port (/metrics); 0 chooses a free one"""
    metrics_address: str
    """IP address of --metrics_port; everybody who reaches it can read the metrics, which have
    no patient data"""
    otlp: bool
    """send metrics and the spans of a run by OTLP over HTTP, as the variables
    OTEL_EXPORTER_OTLP_* of the environment say"""
    metrics_file: StrPath | None
    """write metrics to this file for the textfile collector of Prometheus's node_exporter
    when the run ends, and of a stream at every --log_interval; it is replaced at once"""
    lineage: bool
    """emit OpenLineage events when the run starts and ends, as the client's own configuration
    (OPENLINEAGE_URL, openlineage.yml) says; they name the lake and the folder or bucket of
    the inputs, and no file"""
    audit_file: StrPath | None
    """append DICOM audit messages (PS3.15 A.5, XML, one a line) about routed, decided,
    rerouted, reviewed, forgotten and exported studies to this file; they have Study Instance
    UIDs and keyed hashes of Patient IDs"""
    audit_syslog: str | None
    """send them to a syslog server (RFC 5424): tls://HOST:6514 with
    ?ca=FILE&cert=FILE&key=FILE, tcp://HOST:PORT, udp://HOST:514 or unix:///dev/log"""
    audit_source: str
    """Audit Source ID in these messages"""
