output "lake" {
  description = "Root of the lake."
  value       = local.lake
}

output "worker" {
  description = "Service account of the workers."
  value       = google_service_account.worker.email
}
