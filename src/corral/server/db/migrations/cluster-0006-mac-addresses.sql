-- Finds who has a MAC address without looking at all instances.
CREATE INDEX instances_config_hwaddr ON instances_config (value COLLATE NOCASE) WHERE key LIKE 'volatile.%.hwaddr';
