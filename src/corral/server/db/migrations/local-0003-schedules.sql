-- Up to which minute (since 1970) scheduled work is done, so that a restart does none of it twice.
CREATE TABLE schedules (name TEXT PRIMARY KEY NOT NULL, minute INTEGER NOT NULL);
