-- A pool that is deleted by hand takes the records of its volumes along.
CREATE TRIGGER storage_pool_takes_its_volumes BEFORE DELETE ON storage_pools
BEGIN
    DELETE FROM storage_volumes WHERE storage_pool_id = OLD.id;
END;
