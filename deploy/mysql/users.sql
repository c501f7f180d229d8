-- Creates daymend's three users on MySQL 8 and MariaDB, once. As it stands it is refused: put a password of its
-- own, in quotes, in each place. README.md says how. What the users may do is in grants.sql.

CREATE USER daymend_migrate@'%' IDENTIFIED BY A_PASSWORD_IN_QUOTES;
CREATE USER daymend@'%' IDENTIFIED BY A_PASSWORD_IN_QUOTES;
CREATE USER daymend_snapshot@'%' IDENTIFIED BY A_PASSWORD_IN_QUOTES; -- leave it out if you take no snapshots
