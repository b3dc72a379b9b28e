-- Backups of instances; the archives are below backups/instances.
CREATE TABLE instances_backups (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    instance_id INTEGER NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    name TEXT NOT NULL, creation_date TEXT NOT NULL, expiry_date TEXT,
    container_only INTEGER NOT NULL DEFAULT 0, optimized_storage INTEGER NOT NULL DEFAULT 0,
    pending TEXT NOT NULL DEFAULT '', UNIQUE (instance_id, name)
);
