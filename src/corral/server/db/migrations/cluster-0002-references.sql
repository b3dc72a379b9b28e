-- Views for the eye (`sql global "SELECT * FROM instances_config_ref"`), and warnings that go with what they are about.
CREATE VIEW instances_config_ref (project, node, name, key, value) AS
    SELECT projects.name, nodes.name, instances.name, instances_config.key, instances_config.value
    FROM instances_config JOIN instances ON instances.id = instances_config.instance_id
    JOIN projects ON projects.id = instances.project_id JOIN nodes ON nodes.id = instances.node_id;
CREATE VIEW instances_devices_ref (project, node, name, device, type, key, value) AS
    SELECT projects.name, nodes.name, instances.name, instances_devices.name, instances_devices.type,
        coalesce(instances_devices_config.key, ''), coalesce(instances_devices_config.value, '')
    FROM instances_devices
    LEFT OUTER JOIN instances_devices_config ON instances_devices_config.instance_device_id = instances_devices.id
    JOIN instances ON instances.id = instances_devices.instance_id
    JOIN projects ON projects.id = instances.project_id JOIN nodes ON nodes.id = instances.node_id;
CREATE VIEW instances_profiles_ref (project, node, name, value) AS
    SELECT projects.name, nodes.name, instances.name, profiles.name
    FROM instances_profiles JOIN instances ON instances.id = instances_profiles.instance_id
    JOIN profiles ON profiles.id = instances_profiles.profile_id
    JOIN projects ON projects.id = instances.project_id JOIN nodes ON nodes.id = instances.node_id;
CREATE VIEW profiles_config_ref (project, name, key, value) AS
    SELECT projects.name, profiles.name, profiles_config.key, profiles_config.value
    FROM profiles_config JOIN profiles ON profiles.id = profiles_config.profile_id
    JOIN projects ON projects.id = profiles.project_id;
CREATE VIEW projects_config_ref (name, key, value) AS
    SELECT projects.name, projects_config.key, projects_config.value
    FROM projects_config JOIN projects ON projects.id = projects_config.project_id;
CREATE TRIGGER on_image_delete AFTER DELETE ON images BEGIN
    DELETE FROM warnings WHERE entity_type_code = 1 AND entity_id = OLD.id;
END;
CREATE TRIGGER on_instance_delete AFTER DELETE ON instances BEGIN
    DELETE FROM warnings WHERE entity_type_code IN (0, 5) AND entity_id = OLD.id;
END;
CREATE TRIGGER on_network_delete AFTER DELETE ON networks BEGIN
    DELETE FROM warnings WHERE entity_type_code = 8 AND entity_id = OLD.id;
END;
CREATE TRIGGER on_profile_delete AFTER DELETE ON profiles BEGIN
    DELETE FROM warnings WHERE entity_type_code = 2 AND entity_id = OLD.id;
END;
CREATE TRIGGER on_project_delete AFTER DELETE ON projects BEGIN
    DELETE FROM warnings WHERE entity_type_code = 3 AND entity_id = OLD.id;
END;
CREATE TRIGGER on_storage_pool_delete AFTER DELETE ON storage_pools BEGIN
    DELETE FROM warnings WHERE entity_type_code = 12 AND entity_id = OLD.id;
END;
