# What the jobs are launched with. Without providers, so that tests evaluate it: see the outputs.

variable "location" {
  description = "Project, region and subnetwork of the jobs."
  type        = object({ project = string, region = string, subnetwork = string })
}

variable "template_folder" {
  description = "URI of the folder with batch.json and streaming.json."
  type        = string
}

variable "temp" {
  description = "URI of the folder for what Dataflow stages."
  type        = string
}

variable "worker" {
  description = "Service account of the workers."
  type        = string
}

variable "machine_type" {
  type = string
}

variable "max_workers" {
  type = number
}

variable "input" {
  description = "URI of the folder of the objects."
  type        = string
}

variable "subscription" {
  description = "Subscription to notifications about objects; empty lists the folder."
  type        = string
}

variable "options" {
  description = "Parameters of both templates, by name; empty ones are left out."
  type        = map(string)
}

locals {
  given = { for name, value in var.options : name => value if value != "" }

  batch = merge(local.given, {
    input       = var.input
    ingest_date = "$${ingest_date}"
    allow_empty = "true"
  })

  streaming = merge(local.given, {
    input  = var.subscription == "" ? var.input : var.subscription
    source = var.subscription == "" ? "watch" : "pubsub"
  })
}

output "streaming" {
  description = "Parameters of the streaming template."
  value       = local.streaming
}

output "workflow" {
  description = "Workflow that launches the batch template, with yesterday as ingest date."
  value = {
    main = {
      steps = [
        { data_interval = {
          assign = [
            { ingest_date = "$${text.substring(time.format(sys.now() - 86400), 0, 10)}" }
          ]
        } },
        { launch = {
          call = "googleapis.dataflow.v1b3.projects.locations.flexTemplates.launch"
          args = {
            projectId = var.location.project
            location  = var.location.region
            body = {
              launchParameter = {
                # The same name every night: Dataflow refuses a second active job of a name.
                jobName              = "dicom-router-nightly"
                containerSpecGcsPath = "${var.template_folder}/batch.json"
                parameters           = local.batch
                environment = {
                  tempLocation        = var.temp
                  stagingLocation     = var.temp
                  serviceAccountEmail = var.worker
                  machineType         = var.machine_type
                  maxWorkers          = var.max_workers
                  subnetwork          = var.location.subnetwork
                  ipConfiguration     = "WORKER_IP_PRIVATE"
                }
              }
            }
          }
          result = "launched"
        } },
        { done = { return = "$${launched.job.id}" } }
      ]
    }
  }
}
