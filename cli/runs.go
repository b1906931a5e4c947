package cli

import "github.com/spf13/cobra"

func runsCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "runs",
		Short: "See, replay, discard and correct runs",
		Long: `A run is one handler's work on one event. The flags that select runs are the
same for every command: all of what is given must hold.`,
		Example: "  reprise runs groups\n  reprise runs show 17 --payload",
	}, runsListCommand(a), runsShowCommand(a), runsCountCommand(a), runsGroupsCommand(a), runsReplayCommand(a), runsDiscardCommand(a),
		runsEditCommand(a), runsExportCommand(a), runsWatchCommand(a))
}
