"""The fields of the API's records in the order in which users see them, and which of them a user may write."""

INSTANCE_WRITABLE = ("architecture", "config", "devices", "ephemeral", "profiles", "stateful", "description")
INSTANCE = (
    *INSTANCE_WRITABLE,
    "created_at",
    "expanded_config",
    "expanded_devices",
    "name",
    "status",
    "status_code",
    "last_used_at",
    "location",
    "type",
    "project",
)
INSTANCE_OMITTED = ("expanded_config", "expanded_devices")
INSTANCE_FULL = (*INSTANCE, "backups", "state", "snapshots")
SNAPSHOT_WRITABLE = ("expires_at",)
SNAPSHOT = (
    "expires_at",
    "architecture",
    "config",
    "created_at",
    "devices",
    "ephemeral",
    "expanded_config",
    "expanded_devices",
    "last_used_at",
    "name",
    "profiles",
    "stateful",
    "size",
)
STATE = ("status", "status_code", "disk", "memory", "network", "pid", "processes", "cpu")
IMAGE_WRITABLE = ("auto_update", "properties", "public", "expires_at", "profiles")
IMAGE = (
    *IMAGE_WRITABLE,
    "aliases",
    "architecture",
    "cached",
    "filename",
    "fingerprint",
    "size",
    "update_source",
    "type",
    "created_at",
    "last_used_at",
    "uploaded_at",
)
IMAGE_ALIAS = ("description", "target", "name", "type")
IMAGE_METADATA = ("architecture", "creation_date", "expiry_date", "properties", "templates")
PROFILE_WRITABLE = ("config", "description", "devices")
PROFILE = (*PROFILE_WRITABLE, "name", "used_by")
PROJECT_WRITABLE = ("config", "description")
PROJECT = (*PROJECT_WRITABLE, "name", "used_by")
NETWORK_WRITABLE = ("config", "description")
NETWORK = (*NETWORK_WRITABLE, "name", "type", "used_by", "managed", "status", "locations")
NETWORK_LEASE = ("hostname", "hwaddr", "address", "type", "location")
POOL_WRITABLE = ("config", "description")
POOL = (*POOL_WRITABLE, "name", "driver", "used_by", "status", "locations")
VOLUME_WRITABLE = ("config", "description")
VOLUME = (
    *VOLUME_WRITABLE,
    "restore",
    "name",
    "type",
    "used_by",
    "location",
    "content_type",
    "project",
    "created_at",
)
VOLUME_SNAPSHOT = ("description", "expires_at", "name", "config", "content_type", "created_at")
SERVER_WRITABLE = ("config",)
SERVER = ("config", "api_extensions", "api_status", "api_version", "auth", "public", "auth_methods", "environment")
OPERATION = (
    "id",
    "class",
    "description",
    "created_at",
    "updated_at",
    "status",
    "status_code",
    "resources",
    "metadata",
    "may_cancel",
    "err",
    "location",
)
WARNING = (
    "status",
    "uuid",
    "location",
    "project",
    "type",
    "count",
    "first_seen_at",
    "last_seen_at",
    "last_message",
    "severity",
    "entity_url",
)
MEMBER_WRITABLE = ("roles", "failure_domain", "description", "config", "groups")
MEMBER = (*MEMBER_WRITABLE, "server_name", "url", "database", "status", "message", "architecture")
CERTIFICATE_WRITABLE = ("name", "type", "restricted", "projects", "certificate")
CERTIFICATE = (*CERTIFICATE_WRITABLE, "fingerprint")
