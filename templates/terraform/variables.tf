variable "project" {
  description = "Project of the lake and the jobs; best one that holds nothing else."
  type        = string
}

variable "region" {
  description = "Region of buckets and workers, that of the input."
  type        = string
  default     = "europe-west4"
}

variable "image" {
  description = "Image of launcher and workers, by digest (REGION-docker.pkg.dev/PROJECT/REPOSITORY/dicom-router@sha256:…)."
  type        = string
}

variable "repository" {
  description = "Name of the repository of Artifact Registry, in the region, that has the image."
  type        = string
}

variable "input_bucket" {
  description = "Existing bucket that receives the objects."
  type        = string
}

variable "input_folder" {
  description = "Folder of that bucket; empty for all of it."
  type        = string
  default     = ""
}

variable "lake_bucket" {
  description = "Name of the bucket of the lake, which is created."
  type        = string
}

variable "temp_bucket" {
  description = "Name of the bucket for templates, policy and what Dataflow stages, which is created."
  type        = string
}

variable "subnetwork" {
  description = "Subnetwork with Private Google Access, regions/REGION/subnetworks/NAME; workers have no public addresses."
  type        = string
}

variable "policy" {
  description = "Path of a policy file on this machine; empty for the default policy."
  type        = string
  default     = ""
}

variable "mode" {
  description = "batch: a job every night; stream: one job that routes objects as they arrive."
  type        = string
  default     = "batch"

  validation {
    condition     = contains(["batch", "stream"], var.mode)
    error_message = "The mode is batch or stream: two jobs must not write to one lake."
  }
}

variable "schedule" {
  description = "When the batch job starts, in UTC."
  type        = string
  default     = "0 2 * * *"
}

variable "notifications" {
  description = "Whether the stream reads notifications of the input bucket (Pub/Sub) instead of listing it."
  type        = bool
  default     = true
}

variable "machine_type" {
  description = "Machine type of the workers; g2-standard-4 with an NVIDIA L4."
  type        = string
  default     = "n2-standard-4"
}

variable "max_workers" {
  description = "Maximum number of workers."
  type        = number
  default     = 10
}

variable "accelerator" {
  description = "GPU of the workers that run the model, type:nvidia-l4;count:1;install-nvidia-driver; empty for none."
  type        = string
  default     = ""
}

variable "patient_key" {
  description = "Whether the index has the column patient_key: creates a secret, whose version 1 you add."
  type        = bool
  default     = false
}
