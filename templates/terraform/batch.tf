# Every night Cloud Scheduler starts a workflow, which launches the batch template. Cloud Scheduler alone
# cannot: the body of its request is constant, and the ingest date is the start of the data interval.

resource "google_workflows_workflow" "nightly" {
  count = local.is_batch ? 1 : 0

  name                = "dicom-router-nightly"
  region              = var.region
  service_account     = google_service_account.launcher.id
  deletion_protection = false

  source_contents = jsonencode(module.launch.workflow)

  depends_on = [google_storage_bucket_object.template]
}

resource "google_cloud_scheduler_job" "nightly" {
  count = local.is_batch ? 1 : 0

  name             = "dicom-router-nightly"
  region           = var.region
  schedule         = var.schedule
  time_zone        = "Etc/UTC"
  attempt_deadline = "320s"

  retry_config {
    retry_count          = 3
    min_backoff_duration = "60s"
  }

  http_target {
    http_method = "POST"
    uri         = "https://workflowexecutions.googleapis.com/v1/${google_workflows_workflow.nightly[0].id}/executions"
    body        = base64encode("{}")
    headers     = { "Content-Type" = "application/json" }

    oauth_token {
      service_account_email = google_service_account.launcher.email
    }
  }
}
