-- Changes of LXD's own data up to 5.0 that this daemon never needs: tools find them recorded as done.
INSERT INTO patches (name, applied_at) VALUES
    ('storage_lvm_skipactivation', datetime('now')),
    ('clustering_drop_database_role', datetime('now')),
    ('network_clear_bridge_volatile_hwaddr', datetime('now')),
    ('move_backups_instances', datetime('now')),
    ('network_ovn_enable_nat', datetime('now')),
    ('network_ovn_remove_routes', datetime('now')),
    ('network_fan_enable_nat', datetime('now')),
    ('thinpool_typo_fix', datetime('now')),
    ('vm_rename_uuid_key', datetime('now')),
    ('db_nodes_autoinc', datetime('now')),
    ('network_acl_remove_defaults', datetime('now')),
    ('clustering_server_cert_trust', datetime('now')),
    ('warnings_remove_empty_node', datetime('now')),
    ('dnsmasq_entries_include_device_name', datetime('now')),
    ('storage_missing_snapshot_records', datetime('now'));
