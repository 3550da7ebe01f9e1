# The worker runs the launcher of a template and its workers; the launcher of the night starts jobs as it.

resource "google_service_account" "worker" {
  account_id   = "dicom-router-worker"
  display_name = "Workers of the DICOM router"
}

resource "google_service_account" "launcher" {
  account_id   = "dicom-router-launcher"
  display_name = "Starts the jobs of the DICOM router"
}

resource "google_project_iam_member" "worker" {
  project = var.project
  role    = "roles/dataflow.worker"
  member  = local.worker
}

resource "google_storage_bucket_iam_member" "worker_input" {
  bucket = var.input_bucket
  role   = "roles/storage.objectViewer"
  member = local.worker
}

resource "google_storage_bucket_iam_member" "worker_lake" {
  bucket = google_storage_bucket.lake.name
  role   = "roles/storage.objectUser"
  member = local.worker
}

resource "google_storage_bucket_iam_member" "worker_temp" {
  bucket = google_storage_bucket.temp.name
  role   = "roles/storage.objectUser"
  member = local.worker
}

resource "google_artifact_registry_repository_iam_member" "worker_image" {
  location   = var.region
  repository = var.repository
  role       = "roles/artifactregistry.reader"
  member     = local.worker
}

resource "google_pubsub_subscription_iam_member" "worker_subscription" {
  count = local.notified ? 1 : 0

  subscription = google_pubsub_subscription.objects[0].name
  role         = "roles/pubsub.subscriber"
  member       = local.worker
}

resource "google_secret_manager_secret_iam_member" "worker_patient_key" {
  count = var.patient_key ? 1 : 0

  secret_id = google_secret_manager_secret.patient_key[0].id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.worker
}

resource "google_project_iam_member" "launcher_dataflow" {
  project = var.project
  role    = "roles/dataflow.developer"
  member  = local.launcher
}

resource "google_project_iam_member" "launcher_workflow" {
  project = var.project
  role    = "roles/workflows.invoker"
  member  = local.launcher
}

resource "google_service_account_iam_member" "launcher_acts_as_worker" {
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = local.launcher
}

resource "google_storage_bucket_iam_member" "launcher_template" {
  bucket = google_storage_bucket.temp.name
  role   = "roles/storage.objectViewer"
  member = local.launcher
}

resource "google_pubsub_topic_iam_member" "storage_publishes" {
  count = local.notified ? 1 : 0

  topic  = google_pubsub_topic.objects[0].name
  role   = "roles/pubsub.publisher"
  member = "serviceAccount:${data.google_storage_project_service_account.storage.email_address}"
}
