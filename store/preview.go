package store

// Preview is what an operation would take up.
type Preview struct {
	Total Count         // of all parts
	Parts []PreviewPart // the largest first, a thousand at most
	More  int64         // parts that are not among Parts
	Gone  int64         // runs of all parts whose event is no longer in the database
}

// PreviewPart is the runs of a handler whose last failures are alike.
type PreviewPart struct {
	Topic       string `db:"topic"`
	Handler     string `db:"handler"`
	Status      Status `db:"status"`
	Fingerprint string `db:"fingerprint"`
	Kind        Kind   `db:"error_kind"`
	Error       string `db:"error"` // of the newest run
	Runs        int64  `db:"runs"`
	Newest      int64  `db:"newest"`     // run
	Gone        int64  `db:"gone"`       // runs whose event is no longer in the database
	Subscribed  bool   `db:"subscribed"` // the handler has a subscription to the topic
}
