locals {
  worker   = "serviceAccount:${google_service_account.worker.email}"
  launcher = "serviceAccount:${google_service_account.launcher.email}"
  input    = join("/", compact(["gs://${var.input_bucket}", trim(var.input_folder, "/")]))
  lake     = "gs://${google_storage_bucket.lake.name}/lake"
  temp     = "gs://${google_storage_bucket.temp.name}/dataflow"
  is_batch = var.mode == "batch"
  notified = var.mode == "stream" && var.notifications
}

module "launch" {
  source = "./launch"

  location        = { project = var.project, region = var.region, subnetwork = var.subnetwork }
  template_folder = "gs://${google_storage_bucket.temp.name}/templates"
  temp            = local.temp
  worker          = google_service_account.worker.email
  machine_type    = var.machine_type
  max_workers     = var.max_workers
  input           = local.input
  subscription    = local.notified ? google_pubsub_subscription.objects[0].id : ""

  options = {
    lake                = local.lake
    sdk_container_image = var.image
    policy              = var.policy == "" ? "" : "gs://${google_storage_bucket.temp.name}/${google_storage_bucket_object.policy[0].name}"
    accelerator         = var.accelerator
    patient_key_file    = var.patient_key ? "${google_secret_manager_secret.patient_key[0].id}/versions/1" : ""
  }
}

resource "google_storage_bucket" "lake" {
  name                        = var.lake_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # Deleted objects can be restored for a week.
  soft_delete_policy {
    retention_duration_seconds = 604800
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_storage_bucket" "temp" {
  name                        = var.temp_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"

  # It has the serialized pipeline: delete means delete.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  lifecycle_rule {
    condition {
      age            = 30
      matches_prefix = ["dataflow/"]
    }
    action {
      type = "Delete"
    }
  }
}

# The specifications that `gcloud dataflow flex-template build` would write.
resource "google_storage_bucket_object" "template" {
  for_each = toset(["batch", "streaming"])

  bucket       = google_storage_bucket.temp.name
  name         = "templates/${each.key}.json"
  content_type = "application/json"
  content = jsonencode({
    image    = var.image
    sdkInfo  = { language = "PYTHON" }
    metadata = jsondecode(file("${path.module}/../dataflow/${each.key}.json"))
  })
}

resource "google_storage_bucket_object" "policy" {
  count = var.policy == "" ? 0 : 1

  bucket = google_storage_bucket.temp.name
  name   = "policy.yaml"
  source = var.policy
}

# The key of the column patient_key. Add it yourself, so that it is in no state file:
#   openssl rand -base64 32 | gcloud secrets versions add dicom-router-patient-key --data-file=-
resource "google_secret_manager_secret" "patient_key" {
  count = var.patient_key ? 1 : 0

  secret_id = "dicom-router-patient-key"

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
}
