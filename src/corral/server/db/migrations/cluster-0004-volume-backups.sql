-- Backups of custom volumes; the archives are below backups/custom.
CREATE TABLE storage_volumes_backups (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    storage_volume_id INTEGER NOT NULL REFERENCES storage_volumes (id) ON DELETE CASCADE,
    name TEXT NOT NULL, creation_date TEXT NOT NULL, expiry_date TEXT,
    volume_only INTEGER NOT NULL DEFAULT 0, optimized_storage INTEGER NOT NULL DEFAULT 0,
    pending TEXT NOT NULL DEFAULT '', UNIQUE (storage_volume_id, name)
);
