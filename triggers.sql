-- The triggers of daymend: they mark the days whose source changes, in daymend_dirty, and do
-- nothing else. To apply, where daymend has its tables (`daymend migrate`): sqlite3 FILE < THIS
--
-- SQLite has no handlers: while the triggers are there, daymend_dirty has to be there too. Run
-- `daymend triggers remove` before you drop it.

BEGIN IMMEDIATE;

DROP TRIGGER IF EXISTS daymend_billing_insert;
CREATE TRIGGER daymend_billing_insert AFTER INSERT ON billing FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) SELECT NEW.lab_id, NEW.billTime, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_billing_update;
CREATE TRIGGER daymend_billing_update AFTER UPDATE ON billing FOR EACH ROW
WHEN OLD.id IS NOT NEW.id OR OLD.lab_id IS NOT NEW.lab_id OR OLD.billTime IS NOT NEW.billTime OR OLD.isCancelled IS NOT NEW.isCancelled
BEGIN
    INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) SELECT OLD.lab_id, OLD.billTime, strftime('%Y-%m-%d %H:%M:%f', 'now');
    INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) SELECT NEW.lab_id, NEW.billTime, strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE OLD.lab_id IS NOT NEW.lab_id OR OLD.billTime IS NOT NEW.billTime;
END;

DROP TRIGGER IF EXISTS daymend_billing_delete;
CREATE TRIGGER daymend_billing_delete AFTER DELETE ON billing FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) SELECT OLD.lab_id, OLD.billTime, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_billing_replace;
CREATE TRIGGER daymend_billing_replace BEFORE INSERT ON billing FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (lab_id, bill_time, marked_at) SELECT billing.lab_id, billing.billTime, strftime('%Y-%m-%d %H:%M:%f', 'now') FROM billing WHERE billing.id = NEW.id;
END;

DROP TRIGGER IF EXISTS daymend_billingInfo_insert;
CREATE TRIGGER daymend_billingInfo_insert AFTER INSERT ON billingInfo FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT NEW.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_billingInfo_update;
CREATE TRIGGER daymend_billingInfo_update AFTER UPDATE ON billingInfo FOR EACH ROW
WHEN OLD.billing_id IS NOT NEW.billing_id OR OLD.organization_id IS NOT NEW.organization_id OR OLD.referral_id IS NOT NEW.referral_id OR OLD.branch_id IS NOT NEW.branch_id
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT OLD.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT NEW.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE OLD.billing_id IS NOT NEW.billing_id;
END;

DROP TRIGGER IF EXISTS daymend_billingInfo_delete;
CREATE TRIGGER daymend_billingInfo_delete AFTER DELETE ON billingInfo FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT OLD.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_billingInfo_replace;
CREATE TRIGGER daymend_billingInfo_replace BEFORE INSERT ON billingInfo FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT billingInfo.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now') FROM billingInfo WHERE billingInfo.billing_id = NEW.billing_id;
END;

DROP TRIGGER IF EXISTS daymend_labReportRelation_insert;
CREATE TRIGGER daymend_labReportRelation_insert AFTER INSERT ON labReportRelation FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT NEW.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_labReportRelation_update;
CREATE TRIGGER daymend_labReportRelation_update AFTER UPDATE ON labReportRelation FOR EACH ROW
WHEN OLD.id IS NOT NEW.id OR OLD.billing_id IS NOT NEW.billing_id OR OLD.test_id IS NOT NEW.test_id OR OLD.isCancelled IS NOT NEW.isCancelled
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT OLD.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT NEW.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE OLD.billing_id IS NOT NEW.billing_id;
END;

DROP TRIGGER IF EXISTS daymend_labReportRelation_delete;
CREATE TRIGGER daymend_labReportRelation_delete AFTER DELETE ON labReportRelation FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT OLD.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_labReportRelation_replace;
CREATE TRIGGER daymend_labReportRelation_replace BEFORE INSERT ON labReportRelation FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT labReportRelation.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now') FROM labReportRelation WHERE labReportRelation.id = NEW.id;
END;

DROP TRIGGER IF EXISTS daymend_collectedSample_insert;
CREATE TRIGGER daymend_collectedSample_insert AFTER INSERT ON collectedSample FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT NEW.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_collectedSample_update;
CREATE TRIGGER daymend_collectedSample_update AFTER UPDATE ON collectedSample FOR EACH ROW
WHEN OLD.id IS NOT NEW.id OR OLD.billing_id IS NOT NEW.billing_id OR OLD.sampleType_id IS NOT NEW.sampleType_id OR OLD.isAccessed IS NOT NEW.isAccessed
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT OLD.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT NEW.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE OLD.billing_id IS NOT NEW.billing_id;
END;

DROP TRIGGER IF EXISTS daymend_collectedSample_delete;
CREATE TRIGGER daymend_collectedSample_delete AFTER DELETE ON collectedSample FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT OLD.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_collectedSample_replace;
CREATE TRIGGER daymend_collectedSample_replace BEFORE INSERT ON collectedSample FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (bill_id, marked_at) SELECT collectedSample.billing_id, strftime('%Y-%m-%d %H:%M:%f', 'now') FROM collectedSample WHERE collectedSample.id = NEW.id;
END;

DROP TRIGGER IF EXISTS daymend_allTests_insert;
CREATE TRIGGER daymend_allTests_insert AFTER INSERT ON allTests FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (test_id, marked_at) SELECT NEW.id, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_allTests_update;
CREATE TRIGGER daymend_allTests_update AFTER UPDATE ON allTests FOR EACH ROW
WHEN OLD.id IS NOT NEW.id OR OLD.department_id IS NOT NEW.department_id
BEGIN
    INSERT INTO daymend_dirty (test_id, marked_at) SELECT OLD.id, strftime('%Y-%m-%d %H:%M:%f', 'now');
    INSERT INTO daymend_dirty (test_id, marked_at) SELECT NEW.id, strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE OLD.id IS NOT NEW.id;
END;

DROP TRIGGER IF EXISTS daymend_allTests_delete;
CREATE TRIGGER daymend_allTests_delete AFTER DELETE ON allTests FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (test_id, marked_at) SELECT OLD.id, strftime('%Y-%m-%d %H:%M:%f', 'now');
END;

DROP TRIGGER IF EXISTS daymend_allTests_replace;
CREATE TRIGGER daymend_allTests_replace BEFORE INSERT ON allTests FOR EACH ROW
BEGIN
    INSERT INTO daymend_dirty (test_id, marked_at) SELECT allTests.id, strftime('%Y-%m-%d %H:%M:%f', 'now') FROM allTests WHERE allTests.id = NEW.id;
END;

COMMIT;
