-- Tables that all members of a cluster share. Columns are INTEGER, TEXT, REAL or BLOB; times are RFC 3339 text.
CREATE TABLE schema (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, version INTEGER NOT NULL UNIQUE, updated_at TEXT NOT NULL);
CREATE TABLE config (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, key TEXT NOT NULL UNIQUE, value TEXT);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE, description TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL UNIQUE, schema INTEGER NOT NULL DEFAULT 1, api_extensions INTEGER NOT NULL DEFAULT 0,
    heartbeat TEXT NOT NULL DEFAULT '', state INTEGER NOT NULL DEFAULT 0, arch INTEGER NOT NULL DEFAULT 2
);
INSERT INTO nodes (id, name, address) VALUES (1, 'none', '0.0.0.0');

CREATE TABLE projects (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE, description TEXT NOT NULL DEFAULT '');
CREATE TABLE projects_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (project_id, key)
);
INSERT INTO projects (id, name, description) VALUES (1, 'default', 'Default LXD project');
INSERT INTO projects_config (project_id, key, value) VALUES
    (1, 'features.images', 'true'), (1, 'features.networks', 'true'), (1, 'features.profiles', 'true'),
    (1, 'features.storage.volumes', 'true');

CREATE TABLE certificates (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, fingerprint TEXT NOT NULL UNIQUE, type INTEGER NOT NULL,
    name TEXT NOT NULL, certificate TEXT NOT NULL, restricted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE certificates_projects (
    certificate_id INTEGER NOT NULL REFERENCES certificates (id) ON DELETE CASCADE,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE, UNIQUE (certificate_id, project_id)
);

CREATE TABLE profiles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL, description TEXT NOT NULL DEFAULT '',
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE, UNIQUE (project_id, name)
);
CREATE TABLE profiles_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    profile_id INTEGER NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (profile_id, key)
);
CREATE TABLE profiles_devices (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    profile_id INTEGER NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
    name TEXT NOT NULL, type INTEGER NOT NULL DEFAULT 0, UNIQUE (profile_id, name)
);
CREATE TABLE profiles_devices_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    profile_device_id INTEGER NOT NULL REFERENCES profiles_devices (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (profile_device_id, key)
);
INSERT INTO profiles (id, name, description, project_id) VALUES (1, 'default', 'Default LXD profile', 1);

CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, fingerprint TEXT NOT NULL, filename TEXT NOT NULL DEFAULT '',
    size INTEGER NOT NULL DEFAULT 0, public INTEGER NOT NULL DEFAULT 0, architecture INTEGER NOT NULL DEFAULT 2,
    creation_date TEXT, expiry_date TEXT, upload_date TEXT NOT NULL, last_use_date TEXT,
    cached INTEGER NOT NULL DEFAULT 0, auto_update INTEGER NOT NULL DEFAULT 0,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    type INTEGER NOT NULL DEFAULT 0, UNIQUE (project_id, fingerprint)
);
CREATE TABLE images_properties (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    type INTEGER NOT NULL DEFAULT 0, key TEXT NOT NULL, value TEXT, UNIQUE (image_id, key)
);
CREATE TABLE images_aliases (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL,
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE, description TEXT NOT NULL DEFAULT '',
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE, UNIQUE (project_id, name)
);
CREATE TABLE images_nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE, UNIQUE (image_id, node_id)
);
CREATE TABLE images_source (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    image_id INTEGER NOT NULL UNIQUE REFERENCES images (id) ON DELETE CASCADE,
    server TEXT NOT NULL, protocol INTEGER NOT NULL, certificate TEXT NOT NULL DEFAULT '', alias TEXT NOT NULL DEFAULT ''
);
CREATE TABLE images_profiles (
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    profile_id INTEGER NOT NULL REFERENCES profiles (id) ON DELETE CASCADE, UNIQUE (image_id, profile_id)
);

CREATE TABLE instances (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    name TEXT NOT NULL, architecture INTEGER NOT NULL, type INTEGER NOT NULL, ephemeral INTEGER NOT NULL DEFAULT 0,
    creation_date TEXT NOT NULL, stateful INTEGER NOT NULL DEFAULT 0, last_use_date TEXT,
    description TEXT NOT NULL DEFAULT '', expiry_date TEXT,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    pending TEXT NOT NULL DEFAULT '', -- the verb that has not finished making or removing it; swept at start-up
    UNIQUE (project_id, name)
);
CREATE TABLE instances_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (instance_id, key)
);
CREATE TABLE instances_devices (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    name TEXT NOT NULL, type INTEGER NOT NULL DEFAULT 0, UNIQUE (instance_id, name)
);
CREATE TABLE instances_devices_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_device_id INTEGER NOT NULL REFERENCES instances_devices (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (instance_device_id, key)
);
CREATE TABLE instances_profiles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    profile_id INTEGER NOT NULL REFERENCES profiles (id), apply_order INTEGER NOT NULL DEFAULT 0,
    UNIQUE (instance_id, profile_id)
);
CREATE INDEX instances_profiles_profile ON instances_profiles (profile_id);
CREATE TABLE instances_snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    name TEXT NOT NULL, creation_date TEXT NOT NULL, stateful INTEGER NOT NULL DEFAULT 0,
    description TEXT NOT NULL DEFAULT '', expiry_date TEXT, pending TEXT NOT NULL DEFAULT '', UNIQUE (instance_id, name)
);
CREATE TABLE instances_snapshots_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_snapshot_id INTEGER NOT NULL REFERENCES instances_snapshots (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (instance_snapshot_id, key)
);
CREATE TABLE instances_snapshots_devices (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_snapshot_id INTEGER NOT NULL REFERENCES instances_snapshots (id) ON DELETE CASCADE,
    name TEXT NOT NULL, type INTEGER NOT NULL DEFAULT 0, UNIQUE (instance_snapshot_id, name)
);
CREATE TABLE instances_snapshots_devices_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_snapshot_device_id INTEGER NOT NULL REFERENCES instances_snapshots_devices (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (instance_snapshot_device_id, key)
);

CREATE TABLE networks (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE, name TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '', state INTEGER NOT NULL DEFAULT 0, type INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, name)
);
CREATE TABLE networks_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    network_id INTEGER NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT, UNIQUE (network_id, node_id, key)
);
CREATE TABLE networks_nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    network_id INTEGER NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE, state INTEGER NOT NULL DEFAULT 0,
    UNIQUE (network_id, node_id)
);

CREATE TABLE storage_pools (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE, driver TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '', state INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE storage_pools_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_pool_id INTEGER NOT NULL REFERENCES storage_pools (id) ON DELETE CASCADE,
    node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT,
    UNIQUE (storage_pool_id, node_id, key)
);
CREATE TABLE storage_pools_nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_pool_id INTEGER NOT NULL REFERENCES storage_pools (id) ON DELETE CASCADE,
    node_id INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE, state INTEGER NOT NULL DEFAULT 0,
    UNIQUE (storage_pool_id, node_id)
);
CREATE TABLE storage_volumes (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL,
    storage_pool_id INTEGER NOT NULL REFERENCES storage_pools (id), node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    type INTEGER NOT NULL, -- 0 container, 1 image, 2 custom, 3 virtual machine
    description TEXT NOT NULL DEFAULT '', project_id INTEGER NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    content_type INTEGER NOT NULL DEFAULT 0, -- 0 filesystem, 1 block
    creation_date TEXT NOT NULL DEFAULT '', pending TEXT NOT NULL DEFAULT '',
    UNIQUE (storage_pool_id, node_id, project_id, name, type)
);
CREATE TABLE storage_volumes_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_volume_id INTEGER NOT NULL REFERENCES storage_volumes (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (storage_volume_id, key)
);
CREATE TABLE storage_volumes_snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_volume_id INTEGER NOT NULL REFERENCES storage_volumes (id) ON DELETE CASCADE,
    name TEXT NOT NULL, description TEXT NOT NULL DEFAULT '', expiry_date TEXT, creation_date TEXT NOT NULL DEFAULT '',
    pending TEXT NOT NULL DEFAULT '', UNIQUE (storage_volume_id, name)
);
CREATE TABLE storage_volumes_snapshots_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_volume_snapshot_id INTEGER NOT NULL REFERENCES storage_volumes_snapshots (id) ON DELETE CASCADE,
    key TEXT NOT NULL, value TEXT, UNIQUE (storage_volume_snapshot_id, key)
);

CREATE TABLE warnings (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, node_id INTEGER REFERENCES nodes (id) ON DELETE CASCADE,
    project_id INTEGER REFERENCES projects (id) ON DELETE CASCADE, entity_type_code INTEGER, entity_id INTEGER,
    uuid TEXT NOT NULL UNIQUE, type_code INTEGER NOT NULL, status INTEGER NOT NULL, first_seen_date TEXT NOT NULL,
    last_seen_date TEXT NOT NULL, updated_date TEXT, last_message TEXT NOT NULL, count INTEGER NOT NULL
);
