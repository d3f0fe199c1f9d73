# The tea shop: twelve services, two jobs, three sites, two tools.
#
#   dbake plan                 what would be built where
#   dbake build                everything
#   dbake build services       the Go services
#   dbake build shop gateway   just these

# host:port of the registry to push to. dbake sets it when it runs its own nodes.
variable "DBAKE_REGISTRY" {
  default = "localhost:5000"
}

variable "VERSION" {
  default = "1.4.0"
  validation {
    condition     = can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+", VERSION))
    error_message = "VERSION must start with three numbers, as in 1.4.0."
  }
}

# Time stamp of everything in the images, in seconds after 1970, so that the same
# sources give the same images whenever and wherever they are built.
variable "SOURCE_DATE_EPOCH" {
  default = "1767225600"
}

function "image" {
  params = [name]
  result = "${DBAKE_REGISTRY}/storefront/${name}:${VERSION}"
}

function "labels" {
  params = [name, part]
  result = {
    "org.opencontainers.image.title"   = "storefront ${name}"
    "org.opencontainers.image.version" = VERSION
    "com.example.storefront.part"      = part
  }
}

group "default" {
  targets = ["services", "jobs", "sites", "tools"]
}

group "tools" {
  targets = ["seed", "devbox"]
}

# What all images have in common.
target "_image" {
  args = {
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH
  }
  # A provenance tells when and where a build ran, which is never the same twice.
  attest = ["type=provenance,disabled=true"]
  output = ["type=image,push=true,rewrite-timestamp=true"]
}

# --- Go: services and jobs ------------------------------------------------------

target "_go" {
  inherits = ["_image"]
  args = {
    VERSION = VERSION
  }
}

target "services" {
  name     = service
  inherits = ["_go"]
  matrix = {
    service = [
      "accounts", "cart", "catalog", "checkout", "gateway", "inventory",
      "notifier", "payments", "pricing", "reviews", "search", "shipping",
    ]
  }
  dockerfile = "services/${service}/Dockerfile"
  labels     = labels(service, "service")
  tags       = [image(service)]
}

target "jobs" {
  name     = job.name
  inherits = ["_go"]
  matrix = {
    job = [
      { name = "reindex", schedule = "*/30 * * * *" },
      { name = "settle", schedule = "0 3 * * *" },
    ]
  }
  dockerfile = "jobs/Dockerfile"
  args = {
    JOB      = job.name
    SCHEDULE = job.schedule
  }
  labels = labels(job.name, "job")
  tags   = [image(job.name)]
}

# --- busybox: sites and tools ---------------------------------------------------

# Not an image of its own: the sites copy from it.
target "theme" {
  inherits   = ["_image"]
  context    = "sites"
  dockerfile = "theme/Dockerfile"
  output     = ["type=cacheonly"]
}

target "sites" {
  name     = site
  inherits = ["_image"]
  matrix = {
    site = ["shop", "help", "status"]
  }
  context = "sites"
  contexts = {
    theme = "target:theme"
  }
  args = {
    SITE = site
  }
  labels = labels(site, "site")
  tags   = [image(site)]
}

target "seed" {
  inherits = ["_image"]
  context  = "tools/seed"
  labels   = labels("seed", "tool")
  tags     = [image("seed")]
}

target "devbox" {
  inherits = ["_image"]
  context  = "tools/devbox"
  contexts = {
    for name in ["gateway", "catalog", "cart", "search", "shop"] : name => "target:${name}"
  }
  labels = labels("devbox", "tool")
  tags   = [image("devbox")]
}
