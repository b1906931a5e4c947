-- A process that works on thousands of runs at once names them all in each claim. The list
-- is written without being compressed: compressing 3,000 ids takes 6 ms, writing them as
-- they are takes 0.4 ms.
ALTER TABLE reprise.instances ALTER COLUMN held_runs SET STORAGE EXTERNAL;
