# One job that routes objects as they arrive, from notifications of the bucket or by listing it.

resource "google_dataflow_flex_template_job" "stream" {
  count    = local.is_batch ? 0 : 1
  provider = google-beta

  name                    = "dicom-router-stream"
  region                  = var.region
  container_spec_gcs_path = "gs://${google_storage_bucket.temp.name}/${google_storage_bucket_object.template["streaming"].name}"
  on_delete               = "drain"

  parameters              = module.launch.streaming
  temp_location           = local.temp
  staging_location        = local.temp
  service_account_email   = google_service_account.worker.email
  machine_type            = var.machine_type
  max_workers             = var.max_workers
  subnetwork              = var.subnetwork
  ip_configuration        = "WORKER_IP_PRIVATE"
  enable_streaming_engine = true

  depends_on = [
    google_project_iam_member.worker,
    google_storage_bucket_iam_member.worker_input,
    google_storage_bucket_iam_member.worker_lake,
    google_storage_bucket_iam_member.worker_temp,
    google_artifact_registry_repository_iam_member.worker_image,
    google_pubsub_subscription_iam_member.worker_subscription,
  ]
}

data "google_storage_project_service_account" "storage" {}

resource "google_pubsub_topic" "objects" {
  count = local.notified ? 1 : 0

  name = "dicom-router-objects"

  message_storage_policy {
    allowed_persistence_regions = [var.region]
  }
}

resource "google_pubsub_subscription" "objects" {
  count = local.notified ? 1 : 0

  name                       = "dicom-router"
  topic                      = google_pubsub_topic.objects[0].id
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }
}

resource "google_storage_notification" "objects" {
  count = local.notified ? 1 : 0

  bucket             = var.input_bucket
  topic              = google_pubsub_topic.objects[0].id
  payload_format     = "JSON_API_V1"
  event_types        = ["OBJECT_FINALIZE"]
  object_name_prefix = var.input_folder == "" ? null : "${trim(var.input_folder, "/")}/"

  depends_on = [google_pubsub_topic_iam_member.storage_publishes]
}
