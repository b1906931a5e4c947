package store

// Preview is what an operation would take up.
type Preview struct {
	Total Count         // of all parts
	Parts []PreviewPart // at most 1,000, the largest first
	More  int64         // number of parts that are not in Parts
	Gone  int64         // runs of all parts whose event is no longer in the database
}

// PreviewPart is the runs of one handler whose last failures are alike.
type PreviewPart struct {
	Topic       string `db:"topic"`
	Handler     string `db:"handler"`
	Status      Status `db:"status"`
	Fingerprint string `db:"fingerprint"`
	Kind        Kind   `db:"error_kind"`
	Error       string `db:"error"` // of the newest run
	Runs        int64  `db:"runs"`
	Newest      int64  `db:"newest"`     // id of the newest run
	Gone        int64  `db:"gone"`       // runs whose event is no longer in the database
	Subscribed  bool   `db:"subscribed"` // whether the handler has a subscription to the topic
}
